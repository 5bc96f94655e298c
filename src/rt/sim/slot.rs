//! What stands in for state of a node that is neither a file of a simulated drive nor memory of
//! its process: today the index's twin store.
//!
//! A slot is a value of the world under a path of a node. It survives the node's process (`kill`)
//! and its restart; when power is cut it is told, with a random stream, and decides what of it was
//! durable. The code under test reaches it from the core it runs on, also inside an offloaded
//! call:
//!
//! ```ignore
//! #[derive(Default)]
//! struct Twin { last: Option<Rc<Tables>>, before: Option<Rc<Tables>> }
//!
//! impl sim::Slot for Twin {
//!     fn power_cut(&mut self, rng: &mut sim::Rng) { ... }
//! }
//!
//! let twin: Rc<RefCell<Twin>> = sim::world_slot(path);
//! ```
//!
//! A commit that runs in an offloaded closure happens at the closure's virtual time or, if power
//! is cut before, never. The offload is one of the operations that
//! [`super::World::cut_at`] counts.

use std::any::Any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use super::rng::Rng;
use super::world::{NodeId, current_world};

/// A value kept in the world for a node; see the module's text.
pub trait Slot: Any {
    /// Power of the node is cut: keep what was durable. Not called on a process crash.
    fn power_cut(&mut self, rng: &mut Rng);
}

struct Entry {
    any: Rc<dyn Any>,
    /// The same value behind its callback.
    slot: Rc<RefCell<dyn Slot>>,
}

#[derive(Default)]
pub(super) struct Slots(BTreeMap<(NodeId, PathBuf), Entry>);

impl Slots {
    pub fn get<T: Slot + Default>(&mut self, node: NodeId, path: &Path) -> Rc<RefCell<T>> {
        let entry = self.0.entry((node, path.to_path_buf())).or_insert_with(|| {
            let value = Rc::new(RefCell::new(T::default()));
            Entry {
                any: value.clone(),
                slot: value,
            }
        });
        match entry.any.clone().downcast() {
            Ok(value) => value,
            Err(_) => panic!("the slot {} has another type", path.display()),
        }
    }

    pub fn remove(&mut self, node: NodeId, path: &Path) -> bool {
        self.0.remove(&(node, path.to_path_buf())).is_some()
    }

    /// The slots of a node, in the order of their paths.
    pub fn of_node(&self, node: NodeId) -> Vec<Rc<RefCell<dyn Slot>>> {
        let range = (node, PathBuf::new())..(NodeId(node.0 + 1), PathBuf::new());
        self.0
            .range(range)
            .map(|(_, entry)| entry.slot.clone())
            .collect()
    }
}

/// The value at `path` of the current core's node; a default one at first. Panics outside a
/// simulated core, and if the slot was made with another type.
pub fn world_slot<T: Slot + Default>(path: &Path) -> Rc<RefCell<T>> {
    let (shared, node) = current_world();
    let mut state = shared.state.borrow_mut();
    state.slots.get(node, path)
}

/// Forgets the value at `path` of the current core's node, at once and durably. False if there was
/// none.
pub fn world_slot_remove(path: &Path) -> bool {
    let (shared, node) = current_world();
    let mut state = shared.state.borrow_mut();
    state.slots.remove(node, path)
}
