//! The bucket of a run: there already, or made and removed.

use std::net::SocketAddr;
use std::rc::Rc;

use super::client::{Answer, Body, Connection, Failure, Sink, Sizes};
use super::keys::Content;
use super::load::Load;
use super::sign::{Request, Signer};
use crate::rt::{self, CoreId};
use crate::s3::sigv4::{EMPTY_SHA256, hex};
use sha2::{Digest, Sha256};

/// Where buckets are without a word about it.
const DEFAULT_REGION: &str = "us-east-1";

/// Whether the bucket was made now.
pub fn make(load: &Load) -> Result<bool, String> {
    let shown = load.bucket.clone();
    on_own_core(load, |mut errand| async move {
        match errand.request("HEAD", &[], 200).await {
            Ok(_) => return Ok(false),
            Err(Failure::Refused { status: 404, .. }) => {}
            Err(failure) => return Err(failure),
        }
        let document = match errand.region.as_str() {
            "" | DEFAULT_REGION => String::new(),
            region => format!(
                "<CreateBucketConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
                 <LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
            ),
        };
        errand.request("PUT", document.as_bytes(), 200).await?;
        Ok(true)
    })
    .map_err(|why| format!("bucket {shown}: {why}"))
}

/// Removes the bucket, which must be empty.
pub fn remove(load: &Load) -> Result<(), String> {
    let shown = load.bucket.clone();
    on_own_core(load, |mut errand| async move {
        errand.request("DELETE", &[], 204).await.map(|_| ())
    })
    .map_err(|why| format!("bucket {shown}: {why}"))
}

fn on_own_core<T, Fut>(
    load: &Load,
    errand: impl FnOnce(Errand) -> Fut + Send + 'static,
) -> Result<T, String>
where
    T: Send + 'static,
    Fut: Future<Output = Result<T, Failure>> + 'static,
{
    let load = load.clone();
    let config = super::run::reactor(1 << 20, false);
    let thread = rt::spawn_core(CoreId(0), None, config, move || async move {
        errand(Errand::new(load)).await.map_err(|f| f.to_string())
    })
    .map_err(|error| format!("a core cannot be started: {error}"))?;
    thread
        .join()
        .unwrap_or_else(|_| Err("a core ended by a panic".to_owned()))
}

/// A few requests about the bucket.
struct Errand {
    connection: Connection,
    signer: Signer,
    path: String,
    region: String,
}

impl Errand {
    fn new(load: Load) -> Errand {
        let address: SocketAddr = load.address;
        let sizes = Sizes {
            sent: 0,
            received: 0,
        };
        Errand {
            connection: Connection::new(address, Rc::new(Content::new(0)), sizes),
            path: format!("/{}", load.bucket),
            region: load
                .credentials
                .as_ref()
                .map(|credentials| credentials.region.clone())
                .unwrap_or_default(),
            signer: Signer::new(load.host, load.credentials),
        }
    }

    async fn request(
        &mut self,
        method: &'static str,
        body: &[u8],
        expected: u16,
    ) -> Result<Answer, Failure> {
        let hash = hex(&Sha256::digest(body).into());
        let request = Request {
            method,
            path: &self.path,
            query: &[],
            content_sha256: if body.is_empty() { EMPTY_SHA256 } else { &hash },
            crc32c: None,
            content_length: (method == "PUT").then_some(body.len() as u64),
        };
        let mut head = String::new();
        self.signer.write(&mut head, &request, rt::unix_ms());
        self.connection
            .exchange(&head, Body::Bytes(body), expected, &mut Sink::Discard)
            .await
    }
}
