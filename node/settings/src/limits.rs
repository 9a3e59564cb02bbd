//! Bounds: the sizes, counts and times at which code stops, waits, drops or refuses.
//!
//! What it is: [`limits!`], which makes the one struct in which a crate names its bounds, with the
//! values of production and the least that works. What it is not: cluster settings, which users
//! change while nodes run; nobody but a test changes a bound.
//!
//! ```text
//! limits! { struct Limits { resolve_bytes: usize = 4 << 20, min 1; } }
//!    Limits::default()   production
//!    Limits::draw(..)    each bound by itself: production, the least, or in between
//!    limits.set(name, n) one, by name            limits.changed()   "resolve_bytes=1"
//! ```
//!
//! Invariants:
//! 1. Every value from the least to that of production works: what a bound is for may take longer
//!    or be refused, nothing is lost.
//! 2. What [`limits!`] prints it also takes: a run is repeated by its text.

use std::fmt;
use std::time::Duration;

/// What a bound is measured in: a number of bytes, of things, or of milliseconds.
pub trait Bound: Copy {
    /// The number.
    fn number(self) -> u64;
    /// The bound of a number; one that is too large for its type is the largest.
    fn of(number: u64) -> Self;
}

impl Bound for u64 {
    fn number(self) -> u64 {
        self
    }
    fn of(number: u64) -> Self {
        number
    }
}

impl Bound for u32 {
    fn number(self) -> u64 {
        self.into()
    }
    fn of(number: u64) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

impl Bound for usize {
    fn number(self) -> u64 {
        u64::try_from(self).unwrap_or(u64::MAX)
    }
    fn of(number: u64) -> Self {
        Self::try_from(number).unwrap_or(Self::MAX)
    }
}

/// In milliseconds.
impl Bound for Duration {
    fn number(self) -> u64 {
        u64::try_from(self.as_millis()).unwrap_or(u64::MAX)
    }
    fn of(number: u64) -> Self {
        Self::from_millis(number)
    }
}

/// Why a text sets no bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitError {
    /// There is no bound of the name.
    Unknown(String),
    /// The number is below the least that works.
    TooLow {
        /// The bound.
        name: &'static str,
        /// The least that works.
        least: u64,
    },
    /// What should be `NAME=NUMBER` is not.
    Malformed(String),
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(f, "there is no limit {name:?}"),
            Self::TooLow { name, least } => write!(f, "the limit {name} is at least {least}"),
            Self::Malformed(text) => write!(f, "{text:?} is not NAME=NUMBER"),
        }
    }
}

impl std::error::Error for LimitError {}

/// Takes `name=number,...` apart.
pub fn pairs(text: &str) -> impl Iterator<Item = Result<(&str, u64), LimitError>> {
    text.split(',').map(str::trim).filter(|pair| !pair.is_empty()).map(|pair| {
        let malformed = || LimitError::Malformed(pair.to_owned());
        let (name, number) = pair.split_once('=').ok_or_else(malformed)?;
        Ok((name.trim(), number.trim().parse().map_err(|_| malformed())?))
    })
}

/// A bound between `least` and that of production. `below` gives numbers below its argument. Half
/// of the draws leave production's; of the others a third is the least, and the rest is spread over
/// the orders of magnitude between.
pub fn draw(least: u64, production: u64, below: &mut dyn FnMut(u64) -> u64) -> u64 {
    if production <= least || below(2) == 0 {
        return production;
    }
    if below(3) == 0 {
        return least;
    }
    let magnitudes = u64::from((production - least).ilog2()) + 1;
    let width = 1_u64 << below(magnitudes).min(62);
    least.saturating_add(below(width.saturating_mul(2))).min(production)
}

/// Makes the struct in which a crate names its bounds.
///
/// ```
/// crdb_settings::limits! {
///     /// Bounds of a kitchen.
///     pub struct Limits {
///         /// Pans on the stove.
///         pub pans: usize = 4, min 1;
///     }
/// }
/// let mut limits = Limits::default();
/// limits.set("pans", 2).unwrap();
/// assert_eq!(limits.changed(), "pans=2");
/// ```
#[macro_export]
macro_rules! limits {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$doc:meta])* $fvis:vis $field:ident : $type:ty = $production:expr, min $least:expr;)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        $vis struct $name {
            $($(#[$doc])* $fvis $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $production,)* }
            }
        }

        impl $name {
            /// The names of all.
            $vis const NAMES: &'static [&'static str] = &[$(stringify!($field)),*];

            /// Sets one by its name; a time is in milliseconds.
            ///
            /// # Errors
            /// There is none of the name, or it is less than works.
            $vis fn set(&mut self, name: &str, number: u64) -> Result<(), $crate::LimitError> {
                match name {
                    $(stringify!($field) => {
                        let least: $type = $least;
                        let least = $crate::Bound::number(least);
                        if number < least {
                            let name = stringify!($field);
                            return Err($crate::LimitError::TooLow { name, least });
                        }
                        self.$field = $crate::Bound::of(number);
                        Ok(())
                    })*
                    _ => Err($crate::LimitError::Unknown(name.to_owned())),
                }
            }

            /// Draws each by itself; `below` gives numbers below its argument.
            #[must_use]
            $vis fn draw(below: &mut dyn FnMut(u64) -> u64) -> Self {
                let production = Self::default();
                Self {
                    $($field: {
                        let least: $type = $least;
                        let (least, most) = (
                            $crate::Bound::number(least),
                            $crate::Bound::number(production.$field),
                        );
                        $crate::Bound::of($crate::draw_limit(least, most, below))
                    },)*
                }
            }

            /// All: name, value of production, least.
            #[must_use]
            $vis fn list() -> Vec<(&'static str, u64, u64)> {
                let production = Self::default();
                vec![$({
                    let least: $type = $least;
                    let production = $crate::Bound::number(production.$field);
                    (stringify!($field), production, $crate::Bound::number(least))
                }),*]
            }

            /// Those that are not production's, as `name=number,...`.
            #[must_use]
            $vis fn changed(&self) -> String {
                let production = Self::default();
                let mut changed: Vec<String> = Vec::new();
                $(if self.$field != production.$field {
                    let number = $crate::Bound::number(self.$field);
                    changed.push(format!("{}={number}", stringify!($field)));
                })*
                changed.join(",")
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    limits! {
        /// Bounds.
        struct Limits {
            /// Bytes.
            bytes: usize = 4 << 20, min 1;
            /// A time.
            pause: Duration = Duration::from_secs(2), min Duration::from_millis(5);
            /// One that cannot be changed.
            fixed: u64 = 7, min 7;
        }
    }

    /// Numbers that follow from a seed.
    fn numbers(mut state: u64) -> impl FnMut(u64) -> u64 {
        move |below| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            (state >> 33) % below
        }
    }

    #[test]
    fn a_limit_is_set_by_its_name() {
        let mut limits = Limits::default();
        assert_eq!(limits.changed(), "");
        limits.set("bytes", 64).unwrap();
        limits.set("pause", 250).unwrap();
        assert_eq!((limits.bytes, limits.pause), (64, Duration::from_millis(250)));
        assert_eq!(limits.changed(), "bytes=64,pause=250");
        let error = limits.set("pause", 4).unwrap_err();
        assert_eq!(error.to_string(), "the limit pause is at least 5");
        let error = limits.set("byte", 4).unwrap_err();
        assert_eq!(error.to_string(), "there is no limit \"byte\"");
        assert_eq!(Limits::NAMES, ["bytes", "pause", "fixed"]);
        assert_eq!(Limits::list()[1], ("pause", 2_000, 5));
    }

    #[test]
    fn what_is_printed_is_taken() {
        let mut next = numbers(1);
        let drawn = Limits::draw(&mut next);
        let text = drawn.changed();
        let mut read = Limits::default();
        for pair in pairs(&text) {
            let (name, number) = pair.unwrap();
            read.set(name, number).unwrap();
        }
        assert_eq!(read, drawn, "{text}");
        assert!(pairs("a=1,b").any(|pair| pair.is_err()));
    }

    #[test]
    fn draws_reach_both_ends_and_between_and_never_beyond() {
        let mut next = numbers(2);
        let mut seen = [0_u32; 3];
        for _ in 0..2000 {
            let limits = Limits::draw(&mut next);
            assert!(limits.bytes >= 1 && limits.bytes <= 4 << 20, "{limits:?}");
            assert!(limits.pause >= Duration::from_millis(5), "{limits:?}");
            assert_eq!(limits.fixed, 7);
            let place = match limits.bytes {
                1 => 0,
                bytes if bytes < 4 << 20 => 1,
                _ => 2,
            };
            seen[place] += 1;
        }
        assert!(seen.iter().all(|count| *count > 200), "{seen:?}");
    }
}
