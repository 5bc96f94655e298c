//! Ostrakon
