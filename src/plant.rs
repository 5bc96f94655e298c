//! Planted bugs: deliberately wrong variants of the rules that keep data safe, to prove that the simulator's ordinary
//! check finds each of them. Compiled in only with the feature `plant`; without it every `planted!` is `false` and
//! costs nothing.

/// Every bug that can be planted, and the rule it breaks.
pub const BUGS: &[(&str, &str)] = &[
    ("ack-before-flush", "acknowledge a batch before its flush"),
    ("truncate-at-damage", "take damage in the log for its end"),
    (
        "trust-stale-record",
        "replay a batch of an older generation of a recycled file",
    ),
    (
        "relocated-outranks",
        "let a relocated record outrank a newer one",
    ),
    (
        "drop-tombstone-early",
        "drop a tombstone while an older record of its key may be found",
    ),
    (
        "checkpoint-past-unfinished",
        "let a checkpoint's position cover batches not yet applied",
    ),
    ("reuse-under-reader", "free a file while it is being read"),
    (
        "ignore-checksum",
        "return bytes whose checksum does not match",
    ),
    (
        "ignore-lease",
        "free the shards of an object that is being read or uploaded",
    ),
    (
        "complete-with-replaced-part",
        "complete an upload although a part was replaced since it was looked at",
    ),
    (
        "abort-after-completion",
        "take a part of a completed upload for an orphan, because the objects table does not name it",
    ),
    (
        "forget-completion",
        "drop the record of a completion with its version, though completing again must be answered",
    ),
    (
        "skip-the-quorum",
        "acknowledge a put with fewer shards durable than its scheme asks for",
    ),
];

#[cfg(feature = "plant")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Chooses the bug for this thread. `None` plants nothing; an unknown name is refused.
#[cfg(feature = "plant")]
pub fn choose(name: Option<&str>) -> Result<(), String> {
    let bug = match name {
        None => None,
        Some(n) => match BUGS.iter().find(|(b, _)| *b == n) {
            Some((b, _)) => Some(*b),
            None => return Err(format!("no bug is called {n}")),
        },
    };
    PLANTED.with(|p| p.set(bug));
    Ok(())
}

#[cfg(feature = "plant")]
pub fn is_planted(name: &'static str) -> bool {
    debug_assert!(
        BUGS.iter().any(|(b, _)| *b == name),
        "{name} is not in the list"
    );
    PLANTED.with(|p| p.get() == Some(name))
}

#[cfg(not(feature = "plant"))]
#[inline(always)]
pub const fn is_planted(_name: &'static str) -> bool {
    false
}

/// Whether this bug is planted.
#[macro_export]
macro_rules! planted {
    ($name:literal) => {
        $crate::plant::is_planted($name)
    };
}
