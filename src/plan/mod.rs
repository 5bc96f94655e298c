//! `ostrakon plan`: what a set of drives holds and how long it lasts, before it is bought.
//!
//! [`durability`] is the model, [`command`] the words around it. `docs/durability.md` has the formulas, where they come
//! from, and what they leave out.

pub mod command;
pub mod durability;
