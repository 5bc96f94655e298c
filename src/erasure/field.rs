//! GF(2⁸) with the polynomial x⁸ + x⁴ + x³ + x² + 1 (0x11d), ISA-L's field, and the small matrices over it.

/// The low bits of the polynomial; 2 generates all elements but 0.
const POLYNOMIAL: u8 = 0x1d;

/// Powers of 2, twice in a row so that a sum of two logarithms is an index.
const POWERS: [u8; 510] = {
    let mut powers = [0; 510];
    let mut value = 1_u8;
    let mut i = 0;
    while i < 510 {
        powers[i] = value;
        value = (value << 1) ^ if value & 0x80 != 0 { POLYNOMIAL } else { 0 };
        i += 1;
    }
    powers
};

/// Of the elements that have one.
const LOGARITHMS: [u8; 256] = {
    let mut logarithms = [0; 256];
    let mut i = 0;
    while i < 255 {
        logarithms[POWERS[i] as usize] = i as u8;
        i += 1;
    }
    logarithms
};

pub const fn mul(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    POWERS[LOGARITHMS[a as usize] as usize + LOGARITHMS[b as usize] as usize]
}

/// Panics for 0, which has none.
pub const fn inverse(a: u8) -> u8 {
    assert!(a != 0, "0 has no inverse");
    POWERS[255 - LOGARITHMS[a as usize] as usize]
}

/// By factor: its products with 0 to 15, then with 0, 16, 32, … 240. A product is the sum of one of each.
pub type Nibbles = [u8; 32];

pub static NIBBLES: [Nibbles; 256] = {
    let mut tables = [[0; 32]; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut nibble = 0;
        while nibble < 16 {
            tables[factor][nibble] = mul(factor as u8, nibble as u8);
            tables[factor][16 + nibble] = mul(factor as u8, (nibble << 4) as u8);
            nibble += 1;
        }
        factor += 1;
    }
    tables
};

/// By factor: multiplication as a matrix of bits, as `gf2p8affineqb` takes it. Byte 7 - i says which bits of the other
/// factor make bit i of the product.
pub static AFFINE: [u64; 256] = {
    let mut matrices = [0; 256];
    let mut factor = 0;
    while factor < 256 {
        let mut from = 0;
        while from < 8 {
            let product = mul(factor as u8, 1 << from) as u64;
            let mut to = 0;
            while to < 8 {
                matrices[factor] |= (product >> to & 1) << (8 * (7 - to) + from);
                to += 1;
            }
            from += 1;
        }
        factor += 1;
    }
    matrices
};

/// The most rows of a matrix that [`invert`] takes: no more segments are lost than there is parity, and none but data,
/// so half of the widest scheme.
pub const INVERTED_MAX: usize = 16;

/// A square of which the first `n` rows and columns count.
pub type Square = [[u8; INVERTED_MAX]; INVERTED_MAX];

/// Gauss-Jordan. Panics for a matrix without inverse.
pub fn invert(mut matrix: Square, n: usize) -> Square {
    let mut inverse_of = [[0; INVERTED_MAX]; INVERTED_MAX];
    for (i, row) in inverse_of.iter_mut().enumerate() {
        row[i] = 1;
    }
    for i in 0..n {
        let pivot = (i..n).find(|&row| matrix[row][i] != 0);
        let pivot = pivot.expect("the matrix of an erasure code has only regular squares");
        matrix.swap(i, pivot);
        inverse_of.swap(i, pivot);
        let scale = inverse(matrix[i][i]);
        for column in 0..n {
            matrix[i][column] = mul(matrix[i][column], scale);
            inverse_of[i][column] = mul(inverse_of[i][column], scale);
        }
        for row in (0..n).filter(|row| *row != i) {
            let factor = matrix[row][i];
            for column in 0..n {
                matrix[row][column] ^= mul(factor, matrix[i][column]);
                inverse_of[row][column] ^= mul(factor, inverse_of[i][column]);
            }
        }
    }
    inverse_of
}
