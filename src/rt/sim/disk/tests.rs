//! One test for each rule of the model. Where a rule is about chance, many cuts are tried and
//! every allowed outcome must appear, and no other.

use super::*;

const MIB: u64 = 1 << 20;

fn rng(n: u64) -> Rng {
    Rng::stream(n, "disk-test", 0)
}

/// A drive with a durable file "f" of `len` bytes of 'a'.
fn disk_with_file(len: usize) -> (Disk, Inode) {
    let mut disk = Disk::new(64 * MIB);
    let f = disk.open("f", true, false).unwrap();
    disk.write(f, 0, &vec![b'a'; len]).unwrap();
    let mark = disk.sync_mark(f);
    disk.sync_all_finish(f, mark);
    disk.sync_dir("").unwrap();
    (disk, f)
}

fn content(disk: &Disk, inode: Inode) -> Vec<u8> {
    let mut out = vec![0xEE; disk.len(inode) as usize];
    assert_eq!(disk.read(inode, 0, &mut out), Ok(out.len()));
    out
}

fn sync(disk: &mut Disk, inode: Inode) {
    let mark = disk.sync_mark(inode);
    disk.sync_all_finish(inode, mark);
}

/// The first byte of each sector, as text: all tests write sectors of one letter.
fn letters(disk: &Disk, inode: Inode) -> String {
    let bytes = content(disk, inode);
    for sector in bytes.chunks(SECTOR) {
        assert!(sector.iter().all(|&b| b == sector[0]), "a torn sector");
    }
    bytes
        .chunks(SECTOR)
        .map(|s| if s[0] == 0 { '0' } else { char::from(s[0]) })
        .collect()
}

/// The outcomes of `tries` cuts of copies of `disk`, as file "f" reads afterwards.
fn outcomes(disk: &Disk, mode: CutMode, tries: u64) -> BTreeSet<String> {
    (0..tries)
        .map(|n| {
            let mut cut = disk.clone();
            cut.power_cut(mode, &mut rng(n));
            match cut.open("f", false, false) {
                Ok(f) => letters(&cut, f),
                Err(e) => format!("{e:?}"),
            }
        })
        .collect()
}

fn set(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|s| s.to_string()).collect()
}

#[test]
fn reads_see_completed_writes_over_durable_bytes() {
    let (mut disk, f) = disk_with_file(8192);
    disk.write(f, 4096 - 512, &[b'b'; 1024]).unwrap();
    disk.write(f, 4096, &[b'c'; 512]).unwrap();
    assert_eq!(letters(&disk, f), "aaaaaaabcaaaaaaa");
    sync(&mut disk, f);
    assert_eq!(letters(&disk, f), "aaaaaaabcaaaaaaa");
    let mut middle = [0; 700];
    assert_eq!(disk.read(f, 3600, &mut middle), Ok(700));
    assert_eq!(middle[..496], [b'b'; 496]);
    assert_eq!(middle[496..], [b'c'; 204]);
}

#[test]
fn a_read_stops_at_the_end_of_the_file() {
    let (disk, f) = disk_with_file(1000);
    let mut out = [0; 512];
    assert_eq!(disk.read(f, 512, &mut out), Ok(488));
    assert_eq!(disk.read(f, 1000, &mut out), Ok(0));
    assert_eq!(disk.read(f, 5000, &mut out), Ok(0));
}

#[test]
fn holes_and_zero_writes_read_as_zeros_and_cost_no_pages() {
    let (mut disk, f) = disk_with_file(4096);
    disk.write(f, MIB, &[b'z'; 512]).unwrap();
    disk.write(f, 0, &[0; 4096]).unwrap();
    disk.write(f, 2 * MIB, &vec![0; MIB as usize]).unwrap();
    sync(&mut disk, f);
    assert_eq!(disk.file(f).durable.0.len(), 1, "only the page with 'z'");
    let bytes = content(&disk, f);
    assert_eq!(bytes.len() as u64, 3 * MIB);
    assert_eq!(bytes[MIB as usize], b'z');
    assert_eq!(bytes.iter().filter(|&&b| b != 0).count(), 512);
}

#[test]
fn zero_detection_looks_at_every_byte() {
    for len in [0, 1, 15, 16, 17, 512, 4096] {
        let mut bytes = vec![0; len];
        assert!(all_zero(&bytes));
        for at in 0..len {
            bytes[at] = 1;
            assert!(!all_zero(&bytes), "byte {at} of {len}");
            bytes[at] = 0;
        }
    }
}

#[test]
fn synced_bytes_survive_every_cut() {
    let (mut disk, f) = disk_with_file(2048);
    disk.write(f, 512, &[b'b'; 512]).unwrap();
    sync(&mut disk, f);
    for mode in CutMode::ALL {
        assert_eq!(outcomes(&disk, mode, 20), set(&["abaa"]), "{mode:?}");
    }
}

#[test]
fn lose_all_and_keep_all_do_what_they_say() {
    let (mut disk, f) = disk_with_file(1024);
    disk.write(f, 0, &[b'b'; 1536]).unwrap();
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 5), set(&["aa"]));
    assert_eq!(outcomes(&disk, CutMode::KeepAll, 5), set(&["bbb"]));
}

#[test]
fn per_sector_leaves_every_mix_of_old_and_new() {
    let (mut disk, f) = disk_with_file(1024);
    disk.write(f, 0, &[b'b'; 1024]).unwrap();
    let got = outcomes(&disk, CutMode::PerSector, 200);
    assert_eq!(got, set(&["aa", "ab", "ba", "bb"]));
}

#[test]
fn overlapping_unflushed_writes_may_leave_either_version() {
    let (mut disk, f) = disk_with_file(512);
    disk.write(f, 0, &[b'b'; 512]).unwrap();
    disk.write(f, 0, &[b'c'; 512]).unwrap();
    for mode in [CutMode::PerSector, CutMode::PerWrite, CutMode::Reordered] {
        assert_eq!(
            outcomes(&disk, mode, 300),
            set(&["a", "b", "c"]),
            "{mode:?}"
        );
    }
    // Flushed together, only the later one may stay.
    sync(&mut disk, f);
    assert_eq!(outcomes(&disk, CutMode::PerSector, 50), set(&["c"]));
}

#[test]
fn per_write_tears_each_write_by_itself() {
    let (mut disk, f) = disk_with_file(2048);
    disk.write(f, 0, &[b'b'; 1024]).unwrap();
    disk.write(f, 1024, &[b'c'; 1024]).unwrap();
    let got = outcomes(&disk, CutMode::PerWrite, 500);
    let one = ["aa", "ba", "bb"];
    let two = ["aa", "ca", "cc"];
    let all: Vec<String> = one
        .iter()
        .flat_map(|x| two.iter().map(move |y| format!("{x}{y}")))
        .collect();
    assert_eq!(got, all.into_iter().collect());
}

#[test]
fn in_order_keeps_a_prefix_of_writes_across_files() {
    let mut disk = Disk::new(MIB);
    let f = disk.open("f", true, false).unwrap();
    let g = disk.open("g", true, false).unwrap();
    for inode in [f, g] {
        disk.write(inode, 0, &[b'a'; 1024]).unwrap();
        sync(&mut disk, inode);
    }
    disk.sync_dir("").unwrap();
    disk.write(f, 0, &[b'b'; 512]).unwrap();
    disk.write(g, 0, &[b'c'; 1024]).unwrap();
    disk.write(f, 512, &[b'd'; 512]).unwrap();
    let both = |mode| -> BTreeSet<String> {
        (0..300)
            .map(|n| {
                let mut cut = disk.clone();
                cut.power_cut(mode, &mut rng(n));
                format!("{} {}", letters(&cut, f), letters(&cut, g))
            })
            .collect()
    };
    let in_order = set(&["aa aa", "ba aa", "ba ca", "ba cc", "bd cc"]);
    assert_eq!(both(CutMode::InOrder), in_order);
    let reordered = both(CutMode::Reordered);
    assert!(in_order.is_subset(&reordered));
    assert!(reordered.contains("ad aa"), "the last write alone");
}

#[test]
fn a_sync_covers_only_writes_completed_before_it_was_submitted() {
    let (mut disk, f) = disk_with_file(1024);
    disk.write(f, 0, &[b'b'; 512]).unwrap();
    let mark = disk.sync_mark(f);
    disk.write(f, 512, &[b'c'; 512]).unwrap();
    disk.sync_data_finish(f, mark);
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["ba"]));
    assert_eq!(disk.unflushed(f), 1);
}

#[test]
fn sync_data_keeps_the_size_that_data_needs_and_sync_all_the_rest() {
    let (mut disk, f) = disk_with_file(512);
    disk.allocate(f, 2048).unwrap();
    disk.write(f, 512, &[b'b'; 512]).unwrap();
    let mark = disk.sync_mark(f);
    disk.sync_data_finish(f, mark);
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["ab"]));
    assert_eq!(
        outcomes(&disk, CutMode::PerSector, 60),
        set(&["ab", "ab00"])
    );
    disk.sync_all_finish(f, mark);
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["ab00"]));
}

#[test]
fn an_unflushed_size_may_be_lost_with_the_bytes_behind_it() {
    let (mut disk, f) = disk_with_file(512);
    disk.write(f, 512, &[b'b'; 512]).unwrap();
    disk.write(f, 1024, &[b'c'; 512]).unwrap();
    let got = outcomes(&disk, CutMode::PerSector, 400);
    for want in ["a", "ab", "a0", "abc", "a00", "a0c", "ab0"] {
        assert!(got.contains(want), "{want} in {got:?}");
    }
    // Bytes cut off with the size do not come back when the file grows again.
    let mut cut = disk.clone();
    cut.power_cut(CutMode::LoseAll, &mut rng(0));
    let f = cut.open("f", false, false).unwrap();
    cut.allocate(f, 1536).unwrap();
    assert_eq!(letters(&cut, f), "a00");
}

#[test]
fn a_new_file_is_durable_only_after_its_directory_is_synced() {
    let mut disk = Disk::new(MIB);
    let f = disk.open("f", true, false).unwrap();
    disk.write(f, 0, &[b'a'; 512]).unwrap();
    sync(&mut disk, f);
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["NotFound"]));
    for mode in [CutMode::PerSector, CutMode::InOrder] {
        assert_eq!(outcomes(&disk, mode, 40), set(&["NotFound", "a"]));
    }
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["a"]));
}

#[test]
fn an_entry_without_file_sync_leaves_an_empty_file() {
    let mut disk = Disk::new(MIB);
    let f = disk.open("f", true, false).unwrap();
    disk.write(f, 0, &[b'a'; 512]).unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&[""]));
}

#[test]
fn a_removed_file_may_come_back_until_its_directory_is_synced() {
    let (mut disk, f) = disk_with_file(512);
    disk.close(f);
    disk.remove_file("f").unwrap();
    assert!(!disk.exists("f"));
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["a"]));
    assert_eq!(
        outcomes(&disk, CutMode::PerSector, 40),
        set(&["NotFound", "a"])
    );
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["NotFound"]));
    assert!(!disk.inodes.contains_key(&f), "the bytes are freed");
}

#[test]
fn a_removed_file_that_is_open_stays_readable() {
    let (mut disk, f) = disk_with_file(4096);
    let free = disk.free_bytes();
    disk.remove_file("f").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(letters(&disk, f), "aaaaaaaa");
    assert_eq!(disk.free_bytes(), free);
    disk.close(f);
    assert_eq!(disk.free_bytes(), free + 4096);
}

#[test]
fn a_rename_happens_whole_or_not_at_all() {
    let (mut disk, _) = disk_with_file(512);
    let tmp = disk.open("tmp", true, true).unwrap();
    disk.write(tmp, 0, &[b'n'; 512]).unwrap();
    sync(&mut disk, tmp);
    disk.sync_dir("").unwrap();
    disk.rename("tmp", "f").unwrap();
    assert_eq!(disk.read_dir("").unwrap(), ["f"]);
    for mode in CutMode::ALL {
        let got: BTreeSet<(String, bool)> = (0..40)
            .map(|n| {
                let mut cut = disk.clone();
                cut.power_cut(mode, &mut rng(n));
                let f = cut.open("f", false, false).unwrap();
                (letters(&cut, f), cut.exists("tmp"))
            })
            .collect();
        let allowed = [("a".to_string(), true), ("n".to_string(), false)];
        assert!(got.iter().all(|g| allowed.contains(g)), "{mode:?} {got:?}");
        if matches!(mode, CutMode::PerSector | CutMode::InOrder) {
            assert_eq!(got.len(), 2, "{mode:?}");
        }
    }
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["n"]));
}

#[test]
fn a_rename_without_file_sync_may_leave_an_empty_file() {
    let (mut disk, _) = disk_with_file(512);
    let tmp = disk.open("tmp", true, true).unwrap();
    disk.write(tmp, 0, &[b'n'; 512]).unwrap();
    disk.rename("tmp", "f").unwrap();
    disk.sync_dir("").unwrap();
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&[""]));
}

#[test]
fn a_directory_needs_its_parent_synced() {
    let mut disk = Disk::new(MIB);
    disk.create_dir("d").unwrap();
    let f = disk.open("d/f", true, true).unwrap();
    disk.write(f, 0, &[b'a'; 512]).unwrap();
    sync(&mut disk, f);
    disk.sync_dir("d").unwrap();
    let mut cut = disk.clone();
    cut.power_cut(CutMode::LoseAll, &mut rng(0));
    assert!(!cut.exists("d"));
    assert_eq!(cut.inodes.len(), 1, "only the root is left");
    disk.sync_dir("").unwrap();
    disk.power_cut(CutMode::LoseAll, &mut rng(0));
    assert_eq!(letters(&disk, f), "a");
}

#[test]
fn a_directory_sync_covers_only_changes_before_it_was_submitted() {
    let mut disk = Disk::new(MIB);
    disk.open("f", true, true).unwrap();
    let (dir, mark) = disk.sync_dir_mark("").unwrap();
    disk.open("g", true, true).unwrap();
    disk.sync_dir_finish(dir, mark);
    disk.power_cut(CutMode::LoseAll, &mut rng(0));
    assert_eq!(disk.read_dir("").unwrap(), ["f"]);
}

#[test]
fn syncing_a_renames_target_takes_its_source_along() {
    let mut disk = Disk::new(MIB);
    disk.create_dir("a").unwrap();
    disk.create_dir("b").unwrap();
    disk.sync_dir("").unwrap();
    disk.open("a/x", true, true).unwrap();
    disk.rename("a/x", "b/x").unwrap();
    disk.sync_dir("b").unwrap();
    for mode in CutMode::ALL {
        let mut cut = disk.clone();
        cut.power_cut(mode, &mut rng(1));
        assert!(cut.exists("b/x") && !cut.exists("a/x"), "{mode:?}");
    }
}

#[test]
fn a_failed_sync_loses_data_for_good_though_some_of_it_reads_on() {
    let (mut base, f) = disk_with_file(1024);
    base.write(f, 0, &[b'b'; 512]).unwrap();
    base.write(f, 512, &[b'c'; 512]).unwrap();
    let mut read = BTreeSet::new();
    for n in 0..60 {
        let mut disk = base.clone();
        let mark = disk.sync_mark(f);
        disk.sync_fail(f, mark, &mut rng(n));
        read.insert(letters(&disk, f));
        assert_eq!(disk.unflushed(f), 0);
        // The retry says Ok and has made nothing durable.
        sync(&mut disk, f);
        disk.power_cut(CutMode::LoseAll, &mut rng(n));
        assert_eq!(letters(&disk, f), "aa");
    }
    assert_eq!(read, set(&["aa", "ba", "ac", "bc"]));
}

#[test]
fn a_write_after_a_failed_sync_is_durable_after_the_next_one() {
    for n in 0..20 {
        let (mut disk, f) = disk_with_file(1024);
        disk.write(f, 0, &[b'b'; 1024]).unwrap();
        let mark = disk.sync_mark(f);
        disk.sync_fail(f, mark, &mut rng(n));
        disk.write(f, 0, &[b'c'; 512]).unwrap();
        sync(&mut disk, f);
        assert_eq!(&letters(&disk, f)[..1], "c");
        disk.power_cut(CutMode::LoseAll, &mut rng(n));
        assert_eq!(letters(&disk, f), "ca");
    }
}

#[test]
fn a_part_write_over_a_failed_sector_reads_right_before_and_after_its_sync() {
    for n in 0..20 {
        let (mut disk, f) = disk_with_file(512);
        disk.write(f, 0, &[b'b'; 512]).unwrap();
        let mark = disk.sync_mark(f);
        disk.sync_fail(f, mark, &mut rng(n));
        let under = letters(&disk, f).into_bytes()[0];
        disk.write(f, 100, &[b'c'; 12]).unwrap();
        let mut want = vec![under; 512];
        want[100..112].fill(b'c');
        assert_eq!(content(&disk, f), want);
        sync(&mut disk, f);
        assert_eq!(content(&disk, f), want);
        disk.power_cut(CutMode::LoseAll, &mut rng(n));
        assert_eq!(content(&disk, f), want);
    }
}

#[test]
fn a_full_drive_refuses_growth_and_nothing_else() {
    let mut disk = Disk::new(3 * PAGE_SIZE);
    let f = disk.open("f", true, true).unwrap();
    disk.allocate(f, 2 * PAGE_SIZE).unwrap();
    assert_eq!(disk.free_bytes(), PAGE_SIZE);
    assert_eq!(disk.allocate(f, 4 * PAGE_SIZE), Err(DiskError::NoSpace));
    assert_eq!(disk.len(f), 2 * PAGE_SIZE);
    disk.write(f, 2 * PAGE_SIZE, &[b'x'; 1]).unwrap();
    assert_eq!(disk.free_bytes(), 0);
    disk.write(f, 2 * PAGE_SIZE, &[b'y'; PAGE]).unwrap();
    let g = disk.open("g", true, true).unwrap();
    assert_eq!(disk.write(g, 0, b"z"), Err(DiskError::NoSpace));
    assert_eq!(disk.len(g), 0);
    disk.close(f);
    disk.remove_file("f").unwrap();
    assert_eq!(disk.free_bytes(), 3 * PAGE_SIZE);
    disk.write(g, 0, b"z").unwrap();
}

#[test]
fn a_cut_recounts_the_space() {
    let (mut disk, f) = disk_with_file(4096);
    let free = disk.free_bytes();
    disk.allocate(f, MIB).unwrap();
    disk.open("g", true, true).unwrap();
    disk.power_cut(CutMode::LoseAll, &mut rng(0));
    assert_eq!(disk.free_bytes(), free);
}

#[test]
fn a_process_crash_keeps_what_was_written_and_frees_what_was_open() {
    let (mut disk, f) = disk_with_file(512);
    let free = disk.free_bytes();
    disk.write(f, 0, &[b'b'; 512]).unwrap();
    let g = disk.open("g", true, true).unwrap();
    disk.write(g, 0, &[b'g'; 512]).unwrap();
    disk.remove_file("g").unwrap();
    assert_eq!(disk.free_bytes(), free - PAGE_SIZE);
    disk.close_all();
    assert_eq!(letters(&disk, f), "b");
    assert_eq!(disk.free_bytes(), free);
    // Written is still not durable.
    assert_eq!(outcomes(&disk, CutMode::LoseAll, 1), set(&["a"]));
}

#[test]
fn rot_changes_one_sector_of_durable_bytes() {
    let (base, f) = disk_with_file(64 * 1024);
    let before = content(&base, f);
    let mut places = BTreeSet::new();
    for n in 0..100 {
        let mut disk = base.clone();
        let rot = disk.rot(&mut rng(n)).unwrap();
        assert_eq!(rot.inode, f);
        let after = content(&disk, f);
        let at = rot.offset as usize;
        assert_ne!(after[at..at + SECTOR], before[at..at + SECTOR]);
        assert_eq!(after[..at], before[..at]);
        assert_eq!(after[at + SECTOR..], before[at + SECTOR..]);
        places.insert(rot.offset);
    }
    assert!(places.len() > 40, "rot strikes everywhere");
    assert_eq!(Disk::new(MIB).rot(&mut rng(0)), None);
}

#[test]
fn aimed_rot_damages_each_sector_of_the_range_and_no_other() {
    let (mut disk, f) = disk_with_file(4096);
    disk.rot_at(f, 600, 1000, &mut rng(3));
    let bytes = content(&disk, f);
    for (i, sector) in bytes.chunks(SECTOR).enumerate() {
        let damaged = sector.iter().any(|&b| b != b'a');
        assert_eq!(damaged, (1..=3).contains(&i), "sector {i}");
    }
}

#[test]
fn unreadable_sectors_fail_reads_until_overwritten() {
    let (mut disk, f) = disk_with_file(4096);
    disk.make_unreadable(f, 1024, 512);
    let mut out = [0; 512];
    assert_eq!(disk.read(f, 512, &mut out), Ok(512));
    assert_eq!(disk.read(f, 1024, &mut out), Err(DiskError::Unreadable));
    assert_eq!(disk.read(f, 0, &mut [0; 4096]), Err(DiskError::Unreadable));
    disk.power_cut(CutMode::KeepAll, &mut rng(0));
    assert_eq!(disk.read(f, 1024, &mut out), Err(DiskError::Unreadable));
    disk.write(f, 1024, &[b'b'; 512]).unwrap();
    assert_eq!(letters(&disk, f), "aabaaaaa");
}

#[test]
fn a_misdirected_write_has_another_place_inside_the_file() {
    let (disk, f) = disk_with_file(4 * PAGE);
    let mut rng = rng(0);
    let mut places = BTreeSet::new();
    for _ in 0..200 {
        if let Some(at) = disk.misdirect(f, PAGE_SIZE, PAGE_SIZE, &mut rng) {
            places.insert(at);
        }
    }
    assert_eq!(places, BTreeSet::from([0, 2 * PAGE_SIZE, 3 * PAGE_SIZE]));
    assert_eq!(disk.misdirect(f, 0, 5 * PAGE_SIZE, &mut rng), None);
}

#[test]
fn names_answer_as_the_kernel_does() {
    let (mut disk, _) = disk_with_file(1);
    disk.create_dir("d").unwrap();
    assert_eq!(disk.create_dir("d"), Err(DiskError::Exists));
    assert_eq!(disk.create_dir("no/d"), Err(DiskError::NotFound));
    assert_eq!(disk.create_dir("f/d"), Err(DiskError::NotADirectory));
    assert_eq!(disk.open("f", true, true), Err(DiskError::Exists));
    assert_eq!(disk.open("no", false, false), Err(DiskError::NotFound));
    assert_eq!(disk.open("d", false, false), Err(DiskError::IsADirectory));
    assert_eq!(disk.remove_file("d"), Err(DiskError::IsADirectory));
    assert_eq!(disk.remove_file("no"), Err(DiskError::NotFound));
    assert_eq!(disk.rename("no", "x"), Err(DiskError::NotFound));
    assert_eq!(disk.rename("f", "d"), Err(DiskError::IsADirectory));
    assert_eq!(disk.read_dir("f"), Err(DiskError::NotADirectory));
    assert_eq!(disk.sync_dir("f"), Err(DiskError::NotADirectory));
    assert_eq!(disk.read_dir("").unwrap(), ["d", "f"]);
}

/// Random operations against a plain model of what a file reads as, over cuts.
#[test]
fn random_operations_read_as_a_plain_array_does() {
    for seed in 0..200 {
        let mut rng = rng(seed);
        let (mut disk, f) = disk_with_file(4096);
        let mut model = content(&disk, f);
        for _ in 0..60 {
            match rng.below(10) {
                0 => sync(&mut disk, f),
                1 => {
                    let mark = disk.sync_mark(f);
                    disk.sync_data_finish(f, mark);
                }
                2 => {
                    let len = rng.below(20_000);
                    disk.allocate(f, len).unwrap();
                    model.resize(model.len().max(len as usize), 0);
                }
                3 if rng.below(3) == 0 => {
                    disk.power_cut(CutMode::draw(&mut rng), &mut rng);
                    model = content(&disk, f);
                    // What a cut leaves is durable.
                    disk.power_cut(CutMode::LoseAll, &mut rng);
                }
                3 if rng.coin() => {
                    let mark = disk.sync_mark(f);
                    disk.sync_fail(f, mark, &mut rng);
                    model = content(&disk, f);
                }
                _ => {
                    let offset = rng.below(16_000);
                    let mut data = vec![0; rng.between(1, 3_000) as usize];
                    if rng.coin() {
                        rng.fill(&mut data);
                    }
                    disk.write(f, offset, &data).unwrap();
                    let at = offset as usize;
                    model.resize(model.len().max(at + data.len()), 0);
                    model[at..at + data.len()].copy_from_slice(&data);
                }
            }
            assert_eq!(content(&disk, f), model, "seed {seed}");
        }
    }
}
