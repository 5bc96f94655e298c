//! Intel's ISA-L, where the machine has it: opened at run time, so that nothing depends on it.

#![allow(unsafe_code)]

use std::ffi::{c_int, c_uchar, c_void};

use libloading::Library;

use crate::Failure;

type Mul = unsafe extern "C" fn(c_uchar, c_uchar) -> c_uchar;
type Inverse = unsafe extern "C" fn(c_uchar) -> c_uchar;
type CauchyMatrix = unsafe extern "C" fn(*mut c_uchar, c_int, c_int);
type InitTables = unsafe extern "C" fn(c_int, c_int, *const c_uchar, *mut c_uchar);
type EncodeData = unsafe extern "C" fn(
    c_int,
    c_int,
    c_int,
    *const c_uchar,
    *const *const c_uchar,
    *const *mut c_uchar,
);
type XorGen = unsafe extern "C" fn(c_int, c_int, *const *const c_void) -> c_int;

/// The functions of erasure_code.h and raid.h that the comparison needs.
pub struct Isal {
    mul: Mul,
    inverse: Inverse,
    cauchy_matrix: CauchyMatrix,
    init_tables: InitTables,
    encode_data: EncodeData,
    xor_gen: XorGen,
    /// The functions live as long as it does.
    _library: Library,
}

/// Pointers of a stripe.
const WIDTH_MAX: usize = 32;

impl Isal {
    pub fn open(name: &str) -> Result<Isal, Failure> {
        // SAFETY: the library's constructors are Intel's, who have none; the types are those of ISA-L's headers.
        unsafe {
            let library = Library::new(name)?;
            Ok(Isal {
                mul: *library.get(c"gf_mul")?,
                inverse: *library.get(c"gf_inv")?,
                cauchy_matrix: *library.get(c"gf_gen_cauchy1_matrix")?,
                init_tables: *library.get(c"ec_init_tables")?,
                encode_data: *library.get(c"ec_encode_data")?,
                xor_gen: *library.get(c"xor_gen")?,
                _library: library,
            })
        }
    }

    pub fn mul(&self, a: u8, b: u8) -> u8 {
        // SAFETY: takes and gives numbers.
        unsafe { (self.mul)(a, b) }
    }

    pub fn inverse(&self, a: u8) -> u8 {
        // SAFETY: takes and gives numbers.
        unsafe { (self.inverse)(a) }
    }

    /// Rows of k factors: the identity, then the parity.
    pub fn cauchy_matrix(&self, k: usize, m: usize) -> Vec<u8> {
        let mut matrix = vec![0; (k + m) * k];
        // SAFETY: writes k + m rows of k bytes.
        unsafe { (self.cauchy_matrix)(matrix.as_mut_ptr(), (k + m) as c_int, k as c_int) };
        matrix
    }

    pub fn tables(&self, rows: &[u8], k: usize) -> Vec<u8> {
        let mut tables = vec![0; 32 * rows.len()];
        let count = (rows.len() / k) as c_int;
        // SAFETY: reads `count` rows of k bytes, writes 32 bytes for each.
        unsafe { (self.init_tables)(k as c_int, count, rows.as_ptr(), tables.as_mut_ptr()) };
        tables
    }

    /// All slices are equally long.
    pub fn encode(&self, tables: &[u8], sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        let len = outputs[0].len();
        assert!(
            sources.iter().all(|source| source.len() == len)
                && outputs.iter().all(|output| output.len() == len)
                && tables.len() == 32 * sources.len() * outputs.len()
        );
        let mut from = [std::ptr::null(); WIDTH_MAX];
        let mut to = [std::ptr::null_mut(); WIDTH_MAX];
        for (from, source) in from.iter_mut().zip(sources) {
            *from = source.as_ptr();
        }
        for (to, output) in to.iter_mut().zip(&mut *outputs) {
            *to = output.as_mut_ptr();
        }
        assert!(sources.len().max(outputs.len()) <= WIDTH_MAX);
        let (k, count) = (sources.len() as c_int, outputs.len() as c_int);
        // SAFETY: there are as many pointers, tables and bytes behind the pointers as it is told, asserted above.
        unsafe {
            (self.encode_data)(
                len as c_int,
                k,
                count,
                tables.as_ptr(),
                from.as_ptr(),
                to.as_ptr(),
            )
        }
    }

    /// All slices are equally long and aligned to 32 bytes; there are two sources or more.
    pub fn xor(&self, sources: &[&[u8]], output: &mut [u8]) {
        assert!(sources.len() < WIDTH_MAX);
        assert!(sources.iter().all(|source| source.len() == output.len()));
        let mut all: [*const c_void; WIDTH_MAX] = [std::ptr::null(); WIDTH_MAX];
        for (to, source) in all.iter_mut().zip(sources) {
            *to = source.as_ptr().cast();
        }
        all[sources.len()] = output.as_mut_ptr().cast();
        let count = (sources.len() + 1) as c_int;
        // SAFETY: as many pointers as it is told, each to `len` bytes; it writes to the last, which is ours to write.
        let refused = unsafe { (self.xor_gen)(count, output.len() as c_int, all.as_ptr()) };
        assert_eq!(refused, 0, "xor_gen refuses these slices");
    }
}
