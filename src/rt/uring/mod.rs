//! The production driver: one io_uring per core. (Being filled in.)

use super::buf::Buf;
use super::executor::Core;
use super::offload::Job;
use super::ops::{Brought, OpKey, Outcome};

pub struct Uring {}

impl Uring {
    pub(in crate::rt) fn start(&self, _core: &Core, _key: OpKey) {
        todo!()
    }
    pub(in crate::rt) fn cancel(&self, _key: OpKey) {
        todo!()
    }
    pub(in crate::rt) fn backlog(&self, _key: OpKey, _count: usize) {
        todo!()
    }
    pub(in crate::rt) fn discard(&self, _brought: Brought, _outcome: Outcome) {
        todo!()
    }
    pub(in crate::rt) fn fill_random(&self, _out: &mut [u8]) {
        todo!()
    }
    pub(in crate::rt) fn offload(&self, _job: Job) {
        todo!()
    }
    pub(in crate::rt) fn has_more(&self, _outcome: Outcome) -> bool {
        todo!()
    }
    pub(in crate::rt) fn take_picked(&self, _outcome: Outcome) -> Option<Buf> {
        todo!()
    }
    pub(in crate::rt) async fn wait_for_picked(&self) {
        todo!()
    }
}
