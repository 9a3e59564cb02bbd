//! Room for recursion: expressions and queries nest as deep as the parser lets them.

/// Below this much stack a fresh piece is taken.
const RED_ZONE: usize = 256 << 10;
/// Size of a fresh piece.
const PIECE: usize = 2 << 20;

/// Runs a step of a recursion with room for it.
pub(crate) fn deep<T>(step: impl FnOnce() -> T) -> T {
    stacker::maybe_grow(RED_ZONE, PIECE, step)
}
