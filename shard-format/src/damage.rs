//! What is wrong with bytes that should have been ours.

/// Why a structure was refused. It locates the damage for logs and `ostrakon inspect`; no caller
/// needs to tell the variants apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Damage {
    #[error("magic number is wrong")]
    Magic,
    #[error("checksum is {stored:#010x} but the bytes sum to {computed:#010x}")]
    Checksum { stored: u32, computed: u32 },
    #[error("{needed} bytes needed, {had} there")]
    Truncated { needed: u64, had: u64 },
    #[error("{extra} bytes follow the end")]
    TrailingBytes { extra: u64 },
    #[error("reserved bytes are not zero")]
    ReservedNotZero,
    #[error("{field} cannot be {value}")]
    OutOfRange { field: &'static str, value: u64 },
    #[error("{field} is not UTF-8")]
    NotUtf8 { field: &'static str },
    /// The payload of a record is not where the layout rules put it.
    #[error("payload of record {record} at {found}, not at {expected}")]
    Misplaced {
        record: u32,
        expected: u64,
        found: u64,
    },
    #[error("field {tag} is out of order")]
    FieldOrder { tag: u16 },
    /// Two copies of one header are both valid, equally new, and differ.
    #[error("the two copies contradict each other")]
    CopiesDisagree,
}
