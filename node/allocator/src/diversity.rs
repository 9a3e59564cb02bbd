//! How far apart stores are.

use crate::StoreInfo;

/// Distance of stores that share no tier.
const FAR: u64 = 1000;

/// How much `candidate` adds to the diversity of `others`: the sum of its distances to them.
pub(crate) fn score<'a>(
    candidate: &StoreInfo,
    others: impl IntoIterator<Item = &'a StoreInfo>,
) -> u64 {
    others.into_iter().map(|other| distance(candidate, other)).sum()
}

/// From 0 (same tiers throughout) to [`FAR`] (already the broadest tier differs).
fn distance(a: &StoreInfo, b: &StoreInfo) -> u64 {
    let tiers = a.locality.len().max(b.locality.len());
    let shared = a.locality.iter().zip(&b.locality).take_while(|(a, b)| a == b).count();
    let (tiers, shared) = (tiers as u64, shared as u64);
    ((tiers - shared) * FAR).checked_div(tiers).unwrap_or(0)
}
