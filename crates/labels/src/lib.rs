//! Enums whose variants have a label: a metric label, a condition reason, a value of a field.
//!
//! This is a crate of its own because the protocol core, which depends on nothing of the product, and
//! the parts of the product that build without the relay both declare such enums.

/// Declares an enum with `ALL`, every variant in the order of declaration, and `as_str`, the
/// variant's label. A variant without a label has its own name as label.
///
/// ```
/// labels::label_enum! {
///     /// Reason of a drop.
///     #[derive(Debug, Clone, Copy, PartialEq, Eq)]
///     pub enum Reason {
///         /// The port is taken.
///         PortTaken,
///         /// The datagram is too short.
///         Short = "short",
///     }
/// }
/// assert_eq!(Reason::ALL, [Reason::PortTaken, Reason::Short]);
/// assert_eq!(Reason::PortTaken.as_str(), "PortTaken");
/// assert_eq!(Reason::Short.as_str(), "short");
/// ```
#[macro_export]
macro_rules! label_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$variant_meta:meta])* $variant:ident $(= $label:literal)?,)*
        }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $($(#[$variant_meta])* $variant,)*
        }

        impl $name {
            /// Every variant, in the order of declaration.
            $vis const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The label of this variant.
            $vis const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $crate::label!($variant $($label)?),)*
                }
            }
        }
    };
}

/// The label of a variant of [`label_enum!`]: the one that is given, or else the variant's name.
#[doc(hidden)]
#[macro_export]
macro_rules! label {
    ($variant:ident) => {
        stringify!($variant)
    };
    ($variant:ident $label:literal) => {
        $label
    };
}
