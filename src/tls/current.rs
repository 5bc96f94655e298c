//! The pair in force: one for all cores, replaced when its files change.

use std::cell::RefCell;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;

use crate::rt::{self, TcpStream, sleep};
use crate::tls::pair::{self, Files, Pair, PairError};
use crate::tls::stream::{Refusal, TlsStream};

/// Between two looks at the files. A change is taken up when two looks have found the same, so
/// that a certificate is not taken for wrong while its key is still being replaced: after 4 s at
/// the latest, at the cost of reading some 10 KB.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// What all cores share: touched at handshakes, and locked only at the first one of a core after a
/// change.
pub struct Current {
    generation: AtomicU64,
    pair: Mutex<Pair>,
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Current({})", self.generation.load(Ordering::Relaxed))
    }
}

impl Current {
    pub fn new(pair: Pair) -> Arc<Current> {
        Arc::new(Current {
            generation: AtomicU64::new(0),
            pair: Mutex::new(pair),
        })
    }

    fn replace(&self, pair: Pair) {
        *self.pair.lock().unwrap_or_else(PoisonError::into_inner) = pair;
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn get(&self) -> Pair {
        let pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.clone()
    }

    /// When the certificate in force ends, in seconds since 1970.
    pub fn valid_to(&self) -> Option<i64> {
        self.get().valid.map(|valid| valid.to)
    }

    /// Looks after the files, for ever. One core does. `again` asks for a look that takes what it
    /// finds at once, and says what came of it.
    pub async fn look_after(self: Arc<Current>, files: Files, again: Arc<AtomicBool>) {
        self.look_after_every(LOOK_PERIOD, files, again).await;
    }

    async fn look_after_every(
        self: Arc<Current>,
        period: Duration,
        files: Files,
        again: Arc<AtomicBool>,
    ) {
        let mut taken = self.get().fingerprint;
        let mut before = taken;
        loop {
            sleep(period).await;
            let found = files.read().await;
            let fingerprint = match &found {
                Ok((certificate, key)) => pair::fingerprint(certificate, key),
                Err(error) => pair::fingerprint(error.to_string().as_bytes(), b""),
            };
            let settled = fingerprint == before && fingerprint != taken;
            if again.swap(false, Ordering::Relaxed) || settled {
                self.take(&files, found);
                taken = fingerprint;
            }
            before = fingerprint;
        }
    }

    fn take(&self, files: &Files, found: Result<(Vec<u8>, Vec<u8>), PairError>) {
        match found.and_then(|(certificate, key)| files.pair(&certificate, &key)) {
            Ok(pair) => {
                let now = i64::try_from(rt::unix_ms() / 1000).unwrap_or(i64::MAX);
                if let Some(warning) = pair.time_warning(now) {
                    tracing::warn!("{}: {warning}", files.certificate.display());
                }
                self.replace(pair);
                tracing::info!(
                    "TLS certificate of {} taken up; open connections keep the earlier one",
                    files.certificate.display()
                );
            }
            Err(error) => tracing::warn!("the TLS certificate in force stays: {error}"),
        }
    }
}

/// One core's handshakes.
pub struct Acceptor {
    current: Arc<Current>,
    known: RefCell<(u64, Arc<ServerConfig>)>,
}

impl Acceptor {
    pub fn new(current: Arc<Current>) -> Acceptor {
        let generation = current.generation.load(Ordering::Acquire);
        let known = RefCell::new((generation, current.get().config));
        Acceptor { current, known }
    }

    fn config(&self) -> Arc<ServerConfig> {
        let generation = self.current.generation.load(Ordering::Acquire);
        let mut known = self.known.borrow_mut();
        if known.0 != generation {
            *known = (generation, self.current.get().config);
        }
        known.1.clone()
    }

    /// Shakes hands with a client that has just connected.
    pub async fn accept(&self, tcp: TcpStream) -> Result<TlsStream, Refusal> {
        TlsStream::accept(tcp, self.config()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::uring::{Config, Reactor};
    use crate::rt::{CoreId, spawn};
    use crate::tls::pair::tests::issue;

    const PERIOD: Duration = Duration::from_millis(5);

    #[test]
    fn changed_files_are_taken_up_once_they_are_a_pair() {
        let reactor = Reactor::new(CoreId(0), &Config::small()).expect("io_uring");
        reactor.run(async {
            let dir = tempfile::tempdir().unwrap();
            let files = Files {
                certificate: dir.path().join("c.pem"),
                key: dir.path().join("k.pem"),
            };
            let write = |(certificate, key): &(String, String)| {
                std::fs::write(&files.certificate, certificate).unwrap();
                std::fs::write(&files.key, key).unwrap();
            };
            let (first, second) = (issue(2001..2050), issue(2001..2051));
            write(&first);
            let current = Current::new(files.load().unwrap());
            let acceptor = Acceptor::new(current.clone());
            let again = Arc::new(AtomicBool::new(false));
            let looking = current
                .clone()
                .look_after_every(PERIOD, files.clone(), again.clone());
            drop(spawn(looking));
            let before = acceptor.config();

            // Neither half a change nor a missing file is taken up.
            let half = [(&second.0, &first.1), (&String::new(), &second.1)];
            for (certificate, key) in half {
                write(&(certificate.clone(), key.clone()));
                sleep(10 * PERIOD).await;
                assert!(Arc::ptr_eq(&before, &acceptor.config()));
            }
            std::fs::remove_file(&files.key).unwrap();
            sleep(10 * PERIOD).await;
            assert!(Arc::ptr_eq(&before, &acceptor.config()));

            let valid = current.valid_to();
            write(&second);
            while Arc::ptr_eq(&before, &acceptor.config()) {
                sleep(PERIOD).await;
            }
            assert_ne!(current.valid_to(), valid);

            // Nothing is taken twice, unless asked for.
            let now = acceptor.config();
            sleep(10 * PERIOD).await;
            assert!(Arc::ptr_eq(&now, &acceptor.config()));
            again.store(true, Ordering::Relaxed);
            while Arc::ptr_eq(&now, &acceptor.config()) {
                sleep(PERIOD).await;
            }
        });
    }
}
