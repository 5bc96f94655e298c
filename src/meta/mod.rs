//! Metadata: placement groups, the commands they take, and the state those lead to.
//!
//! A group's commands go through [`Groups::propose`]. On one volume a command is committed when its log batch is
//! durable; replication will put a Raft group behind the same call. The state machine (`machine`) is the same either
//! way: it is told of committed commands in order and evaluates their conditions then.

mod groups;
mod list;
mod machine;
pub mod register;
mod upload;
mod version;

pub use self::{
    groups::{Groups, ObjectRecord, StoredObject, stored_of},
    list::{ListQuery, Listed, Page},
    machine::GroupMachine,
    upload::{
        ChecksumValue, CompletedUpload, PartValue, UploadQuery, UploadRow, UploadValue, Uploaded,
        UploadsPage,
    },
    version::{BucketValue, EtagValue, VersionValue},
};
