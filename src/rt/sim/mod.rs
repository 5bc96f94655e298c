pub mod disk;
pub mod rng;
