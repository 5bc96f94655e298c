//! Looks at a `data.mdb` before LMDB maps it.
//!
//! LMDB believes its file: no page has a checksum, a page number leads straight into the map, and
//! a map that reaches past the end of the file is a SIGBUS. So both trees (data and free pages)
//! are walked here first with plain reads, which also bring the file into the page cache, where
//! the core's reads want it. Any violation is `Damaged`, for which the cure is to destroy the
//! environment and rebuild it from the segment files; a file that cannot be read is `Io`.
//!
//! Found: truncation, foreign and torn pages, wrong counts, keys out of order, pages that two
//! owners claim, free pages that are in use. Not found: flipped bits inside a key (as long as
//! order holds) or a value.
//!
//! Layout, from liblmdb 0.9.70 (`mdb.c`: MDB_page, MDB_meta, MDB_db, MDB_node), native endian:
//!
//! ```text
//! page    0 pgno u64 | 8 pad u16 | 10 flags u16 | 12 lower u16 | 14 upper u16 | 16 offsets u16...
//!         overflow pages: 12 count u32 in place of lower and upper
//! meta   16 magic u32 | 20 version u32 | 24 address u64 | 32 map size u64 | 40 free list db
//!        88 main db | 136 last page u64 | 144 txn id u64
//! db      0 pad u32 (free list: page size) | 4 flags u16 | 6 depth u16 | 8 branch pages u64
//!        16 leaf pages u64 | 24 overflow pages u64 | 32 entries u64 | 40 root u64
//! node    0 lo u16 | 2 hi u16 | 4 flags u16 | 6 key size u16 | 8 key, then data
//!         branch: child = lo | hi << 16 | flags << 32;  leaf: data size = lo | hi << 16
//! ```

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::lmdb::{DATA_FILE, MAP_BYTES, io_error};
use super::{FULL_KEY_BYTES_MAX, IndexError};

const META_PAGES: u64 = 2;
const MAGIC: u32 = 0xBEEF_C0DE;
const DATA_VERSION: u32 = 1;
const PAGE_HEADER: usize = 16;
const NODE_HEADER: usize = 8;
/// LMDB takes the page size of the machine that made the file; no machine has smaller ones.
const PAGE_SIZE_MIN: usize = 4096;
/// LMDB's `MAX_PAGESIZE` (offsets are 16 bits).
const PAGE_SIZE_MAX: usize = 0x8000;
/// LMDB's `CURSOR_STACK`.
const DEPTH_MAX: u16 = 32;
const NO_PAGE: u64 = u64::MAX;

const P_BRANCH: u16 = 0x01;
const P_LEAF: u16 = 0x02;
const P_OVERFLOW: u16 = 0x04;
const P_META: u16 = 0x08;
const P_DIRTY: u16 = 0x10;
const F_BIGDATA: u16 = 0x01;
const MDB_INTEGERKEY: u16 = 0x08;

#[derive(PartialEq, Eq, Debug, Clone, Copy)]
pub enum Found {
    /// No data file: the caller may create one. A file of zero bytes is not this.
    Absent,
    Sound,
}

/// Either the file is unfit or it could not be read.
enum Flaw {
    Damaged(String),
    Io(io::Error),
}

impl From<io::Error> for Flaw {
    fn from(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::UnexpectedEof {
            Flaw::Damaged("the file ends inside a page".to_owned())
        } else {
            Flaw::Io(e)
        }
    }
}

/// `ensure!(condition, "reason {}", with)`
macro_rules! ensure {
    ($condition:expr, $($reason:tt)+) => {
        if !$condition {
            return Err(Flaw::Damaged(format!($($reason)+)));
        }
    };
}

/// Reads the whole used part of the file: about a second a GiB from the page cache, the drive's
/// speed otherwise. Helper threads only.
pub fn check(dir: &Path) -> Result<Found, IndexError> {
    let file = match File::open(dir.join(DATA_FILE)) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(e) => return Err(io_error("open", &e)),
    };
    match walk(&file) {
        Ok(()) => Ok(Found::Sound),
        Err(Flaw::Damaged(reason)) => Err(IndexError::Damaged {
            during: "open",
            reason,
        }),
        Err(Flaw::Io(e)) => Err(io_error("open", &e)),
    }
}

fn walk(file: &File) -> Result<(), Flaw> {
    let file_bytes = file.metadata()?.len();
    ensure!(
        file_bytes >= META_PAGES * PAGE_SIZE_MIN as u64,
        "{file_bytes} bytes are too few for two meta pages"
    );
    read_ahead(file, file_bytes)?;

    let mut page = vec![0; PAGE_SIZE_MIN];
    file.read_exact_at(&mut page, 0)?;
    let first = Meta::read(&page, 0)?;
    let page_size = first.page_size;
    file.read_exact_at(&mut page, page_size as u64)?;
    let second = Meta::read(&page, 1)?;
    ensure!(
        second.page_size == page_size,
        "the meta pages disagree on the page size"
    );
    // `mdb_env_pick_meta`
    let meta = if first.txn_id < second.txn_id {
        second
    } else {
        first
    };
    ensure!(
        meta.last_page < (MAP_BYTES / page_size) as u64,
        "last page {} lies beyond the map",
        meta.last_page
    );

    // A file may end before its last page when that page is free and was never written, and in
    // the middle of a page when a write failed; what counts is where the used pages lie.
    let pages = (file_bytes / page_size as u64).min(meta.last_page + 1);
    let mut walk = Walk {
        file,
        page_size,
        pages,
        last_page: meta.last_page,
        owned: vec![0; (meta.last_page / 64 + 1) as usize],
    };
    for page in 0..META_PAGES {
        walk.own(page)?;
    }
    walk.tree(&meta.free, Keys::TxnIds)?;
    walk.tree(&meta.main, Keys::Bytes)
}

/// The walk visits pages in key order, which in an old file is a random order; one sequential pass
/// before it costs less than as many single reads.
fn read_ahead(file: &File, file_bytes: u64) -> Result<(), Flaw> {
    const CHUNK: usize = 1 << 20;
    let mut chunk = vec![0; CHUNK.min(file_bytes as usize)];
    let mut at = 0;
    while at < file_bytes {
        match file.read_at(&mut chunk, at) {
            Ok(0) => break,
            Ok(n) => at += n as u64,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Flaw::Io(e)),
        }
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// One tree's entry in a meta page.
struct Tree {
    flags: u16,
    depth: u16,
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    entries: u64,
    root: u64,
}

impl Tree {
    fn read(bytes: &[u8]) -> Self {
        Tree {
            flags: u16_at(bytes, 4),
            depth: u16_at(bytes, 6),
            branch_pages: u64_at(bytes, 8),
            leaf_pages: u64_at(bytes, 16),
            overflow_pages: u64_at(bytes, 24),
            entries: u64_at(bytes, 32),
            root: u64_at(bytes, 40),
        }
    }
}

struct Meta {
    page_size: usize,
    free: Tree,
    main: Tree,
    last_page: u64,
    txn_id: u64,
}

impl Meta {
    /// `page` holds the first `PAGE_SIZE_MIN` bytes of a page.
    fn read(page: &[u8], number: u64) -> Result<Self, Flaw> {
        ensure!(
            u64_at(page, 0) == number,
            "meta page {number} calls itself {}",
            u64_at(page, 0)
        );
        ensure!(
            u16_at(page, 10) & P_META != 0,
            "page {number} is not a meta page"
        );
        ensure!(
            u32_at(page, 16) == MAGIC,
            "meta page {number} has a wrong magic"
        );
        let version = u32_at(page, 20);
        ensure!(
            version == DATA_VERSION,
            "data version {version} instead of {DATA_VERSION}"
        );
        let page_size = u32_at(page, 40) as usize;
        ensure!(
            (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size) && page_size.is_power_of_two(),
            "page size {page_size}"
        );
        let meta = Meta {
            page_size,
            free: Tree::read(&page[40..88]),
            main: Tree::read(&page[88..136]),
            last_page: u64_at(page, 136),
            txn_id: u64_at(page, 144),
        };
        ensure!(
            meta.txn_id == 0 || meta.txn_id % META_PAGES == number,
            "meta page {number} holds transaction {}",
            meta.txn_id
        );
        ensure!(
            meta.last_page >= META_PAGES - 1,
            "last page {}",
            meta.last_page
        );
        ensure!(
            meta.free.flags == MDB_INTEGERKEY,
            "flags {:#x} of the free list",
            meta.free.flags
        );
        ensure!(
            meta.main.flags == 0,
            "flags {:#x} of the main tree",
            meta.main.flags
        );
        Ok(meta)
    }
}

/// What a tree's keys are.
#[derive(Clone, Copy, PartialEq)]
enum Keys {
    /// The free list: a transaction's id; the data is the list of pages it freed.
    TxnIds,
    Bytes,
}

impl Keys {
    /// Both keys have passed `Walk::key`.
    fn ascending(self, smaller: &[u8], greater: &[u8]) -> bool {
        match self {
            Keys::Bytes => smaller < greater,
            Keys::TxnIds => u64_at(smaller, 0) < u64_at(greater, 0),
        }
    }
}

struct Walk<'a> {
    file: &'a File,
    page_size: usize,
    /// Whole pages in the file.
    pages: u64,
    last_page: u64,
    /// One bit a page: something has claimed it.
    owned: Vec<u64>,
}

#[derive(Default)]
struct Counts {
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    entries: u64,
    /// The greatest key so far; keys ascend over the whole tree.
    key: Vec<u8>,
}

impl Walk<'_> {
    fn own(&mut self, page: u64) -> Result<(), Flaw> {
        ensure!(
            page <= self.last_page,
            "page {page} lies behind the last page {}",
            self.last_page
        );
        let (word, bit) = ((page / 64) as usize, 1 << (page % 64));
        ensure!(self.owned[word] & bit == 0, "page {page} has two owners");
        self.owned[word] |= bit;
        Ok(())
    }

    fn read(&self, number: u64, count: u64) -> Result<Vec<u8>, Flaw> {
        ensure!(
            number
                .checked_add(count)
                .is_some_and(|end| end <= self.pages),
            "page {number} lies behind the end of the file"
        );
        let mut page = vec![0; self.page_size * count as usize];
        self.file
            .read_exact_at(&mut page, number * self.page_size as u64)?;
        ensure!(
            u64_at(&page, 0) == number,
            "page {number} calls itself {}",
            u64_at(&page, 0)
        );
        Ok(page)
    }

    fn tree(&mut self, tree: &Tree, keys: Keys) -> Result<(), Flaw> {
        let mut counts = Counts::default();
        if tree.root == NO_PAGE {
            ensure!(tree.depth == 0, "an empty tree of depth {}", tree.depth);
        } else {
            ensure!(
                (1..=DEPTH_MAX).contains(&tree.depth),
                "a tree of depth {}",
                tree.depth
            );
            self.page(tree.root, tree.depth, keys, None, &mut counts)?;
        }
        ensure!(
            counts.entries == tree.entries,
            "{} of {} entries",
            counts.entries,
            tree.entries
        );
        ensure!(
            (
                counts.branch_pages,
                counts.leaf_pages,
                counts.overflow_pages
            ) == (tree.branch_pages, tree.leaf_pages, tree.overflow_pages),
            "the tree's pages do not add up"
        );
        Ok(())
    }

    /// `level` 1 is a leaf. `least`: no key below this page is smaller (the parent's key for it).
    fn page(
        &mut self,
        number: u64,
        level: u16,
        keys: Keys,
        least: Option<&[u8]>,
        counts: &mut Counts,
    ) -> Result<(), Flaw> {
        self.own(number)?;
        let page = self.read(number, 1)?;
        let kind = u16_at(&page, 10) & !P_DIRTY;
        let expected = if level == 1 { P_LEAF } else { P_BRANCH };
        ensure!(
            kind == expected,
            "page {number} has flags {kind:#x}, not {expected:#x}"
        );
        let (lower, upper) = (u16_at(&page, 12) as usize, u16_at(&page, 14) as usize);
        ensure!(
            PAGE_HEADER <= lower
                && lower <= upper
                && upper <= self.page_size
                && lower.is_multiple_of(2),
            "page {number} has bounds {lower} and {upper}"
        );
        let nodes = (lower - PAGE_HEADER) / 2;
        // LMDB merges a branch page away before it has only one child.
        ensure!(
            nodes >= if level == 1 { 1 } else { 2 },
            "page {number} has {nodes} nodes"
        );
        if level == 1 {
            counts.leaf_pages += 1;
        } else {
            counts.branch_pages += 1;
        }
        for index in 0..nodes {
            let at = u16_at(&page, PAGE_HEADER + 2 * index) as usize;
            ensure!(
                upper <= at && at + NODE_HEADER <= self.page_size && at.is_multiple_of(2),
                "node {index} of page {number} at {at}"
            );
            let node = &page[at..];
            let (lo, hi) = (u64::from(u16_at(node, 0)), u64::from(u16_at(node, 2)));
            let flags = u16_at(node, 4);
            let key_len = u16_at(node, 6) as usize;
            ensure!(
                node.len() >= NODE_HEADER + key_len,
                "node {index} of page {number} is cut"
            );
            let (key, data) = node[NODE_HEADER..].split_at(key_len);
            if level > 1 {
                // The first key of a branch page means "everything smaller" and may be anything.
                let least = if index == 0 { least } else { Some(key) };
                if index > 0 {
                    self.key(key, keys, number)?;
                    ensure!(
                        keys.ascending(&counts.key, key),
                        "a key under page {number} belongs behind it"
                    );
                }
                self.page(
                    lo | hi << 16 | u64::from(flags) << 32,
                    level - 1,
                    keys,
                    least,
                    counts,
                )?;
                continue;
            }
            self.key(key, keys, number)?;
            ensure!(
                counts.entries == 0 || keys.ascending(&counts.key, key),
                "keys of page {number} out of order"
            );
            ensure!(
                least.is_none_or(|least| !keys.ascending(key, least)),
                "page {number} has a key that belongs before it"
            );
            counts.key.clear();
            counts.key.extend_from_slice(key);
            counts.entries += 1;

            ensure!(
                flags & !F_BIGDATA == 0,
                "node {index} of page {number} has flags {flags:#x}"
            );
            let data_len = (lo | hi << 16) as usize;
            let large;
            let data = if flags & F_BIGDATA != 0 {
                ensure!(data.len() >= 8, "node {index} of page {number} is cut");
                large = self.overflow(u64_at(data, 0), data_len, counts)?;
                &large[PAGE_HEADER..PAGE_HEADER + data_len]
            } else {
                ensure!(
                    data.len() >= data_len,
                    "node {index} of page {number} is cut"
                );
                &data[..data_len]
            };
            if keys == Keys::TxnIds {
                self.freed(data)?;
            }
        }
        Ok(())
    }

    fn key(&self, key: &[u8], keys: Keys, page: u64) -> Result<(), Flaw> {
        let fits = match keys {
            Keys::Bytes => (1..=FULL_KEY_BYTES_MAX).contains(&key.len()),
            Keys::TxnIds => key.len() == size_of::<u64>(),
        };
        ensure!(fits, "a key of {} bytes in page {page}", key.len());
        Ok(())
    }

    fn overflow(&mut self, first: u64, len: usize, counts: &mut Counts) -> Result<Vec<u8>, Flaw> {
        let count = ((PAGE_HEADER - 1 + len) / self.page_size + 1) as u64;
        let pages = self.read(first, count)?;
        ensure!(
            u16_at(&pages, 10) & !P_DIRTY == P_OVERFLOW,
            "page {first} is no overflow page"
        );
        // More than needed happens when a value shrank in place.
        let owned = u64::from(u32_at(&pages, 12));
        ensure!(
            count <= owned,
            "page {first} heads {owned} pages, needs {count}"
        );
        ensure!(owned <= self.last_page, "page {first} heads {owned} pages");
        for page in first..first + owned {
            self.own(page)?;
        }
        counts.overflow_pages += owned;
        Ok(pages)
    }

    /// One record of the free list: a count, then as many page numbers, descending.
    fn freed(&mut self, list: &[u8]) -> Result<(), Flaw> {
        ensure!(
            list.len() >= 8 && list.len().is_multiple_of(8),
            "a free list of {} bytes",
            list.len()
        );
        let count = u64_at(list, 0);
        ensure!(
            count <= (list.len() / 8 - 1) as u64,
            "a free list of {count} pages is cut"
        );
        for index in 0..count as usize {
            self.own(u64_at(list, 8 + 8 * index))?;
        }
        Ok(())
    }
}

const _: () = assert!(PAGE_SIZE_MIN.is_power_of_two() && PAGE_SIZE_MAX.is_power_of_two());
