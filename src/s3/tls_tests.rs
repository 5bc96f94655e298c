//! Whole connections over TLS: what `tests` shows for plain ones holds for these.

use crate::rt::{offload, pool_usage, sleep};
use crate::s3::tests::{Call, Server, pattern, with_acceptor};
use crate::tls::stream::tests::{Client, client_hello, connect, pair};
use crate::tls::{Acceptor, Current};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

const ARENA: usize = 16 << 20;
/// Larger than all buffers together.
const LARGE: usize = ARENA + ARENA / 2 + 12_345;

fn with_tls<F: Future<Output = ()> + 'static>(
    test: impl FnOnce(Rc<Server>, String) -> F + 'static,
) {
    let (pair, trusted) = pair();
    let acceptor = Acceptor::new(Current::new(pair));
    with_acceptor(ARENA, Some(acceptor), move |server| test(server, trusted));
}

/// Runs a blocking client beside the server.
async fn client<T: Send + 'static>(
    server: &Server,
    trusted: &str,
    talk: impl FnOnce(SocketAddr, String) -> T + Send + 'static,
) -> T {
    let (address, trusted) = (server.address, trusted.to_owned());
    offload(move || talk(address, trusted)).await
}

fn open(address: SocketAddr, trusted: &str) -> Client {
    connect(address, trusted, &rustls::version::TLS13)
}

/// Status and body of the next answer.
fn reply(client: &mut Client) -> (u16, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap();
    let length = head
        .lines()
        .find_map(|l| l.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    client.read_exact(&mut body).unwrap();
    (head[9..12].parse().unwrap(), body)
}

fn make_bucket(client: &mut Client) {
    client
        .write_all(&Call::new("PUT", "/bucket").with_body(b""))
        .unwrap();
    assert_eq!(reply(client).0, 200);
}

#[test]
fn a_body_larger_than_all_buffers_passes_both_ways() {
    with_tls(|server, trusted| async move {
        let talk = |address, trusted: String| {
            let mut c = open(address, &trusted);
            make_bucket(&mut c);
            let body = pattern(LARGE);
            c.write_all(&Call::new("PUT", "/bucket/large").with_body(&body))
                .unwrap();
            assert_eq!(reply(&mut c).0, 200);
            c.write_all(&Call::new("GET", "/bucket/large").head())
                .unwrap();
            let (status, found) = reply(&mut c);
            assert!(status == 200 && found == body);
            // And the end is an orderly one.
            c.write_all(
                &Call::new("GET", "/bucket/none")
                    .field("Connection", "close")
                    .head(),
            )
            .unwrap();
            assert_eq!(reply(&mut c).0, 404);
            assert_eq!(c.read(&mut [0; 1]).unwrap(), 0);
        };
        client(&server, &trusted, talk).await;
    });
}

#[test]
fn requests_may_follow_each_other_without_a_wait() {
    with_tls(|server, trusted| async move {
        let talk = |address, trusted: String| {
            let mut c = open(address, &trusted);
            make_bucket(&mut c);
            let mut all = Vec::new();
            for round in 0..20 {
                let key = format!("/bucket/{round}");
                all.extend(Call::new("PUT", &key).with_body(&pattern(round * 3_000)));
                all.extend(Call::new("GET", &key).head());
            }
            c.write_all(&all).unwrap();
            for round in 0..20 {
                assert_eq!(reply(&mut c).0, 200);
                assert_eq!(reply(&mut c), (200, pattern(round * 3_000)));
            }
        };
        client(&server, &trusted, talk).await;
    });
}

#[test]
fn clients_that_leave_in_the_middle_leave_nothing_behind() {
    with_tls(|server, trusted| async move {
        let talk = |address, trusted: String| make_bucket(&mut open(address, &trusted));
        client(&server, &trusted, talk).await;
        settled(&server).await;
        let before = pool_usage();

        let talk = |address, trusted: String| {
            let hello = client_hello(&trusted);
            for round in 0..30 {
                // In mid-handshake: before, within and after the first message.
                let mut tcp = std::net::TcpStream::connect(address).unwrap();
                tcp.write_all(&hello[..hello.len() * (round % 7) / 6])
                    .unwrap();
                drop(tcp);
                // In mid-body: with and without a word, and in the middle of a record.
                let mut c = open(address, &trusted);
                let call = Call::new("PUT", "/bucket/key").field("Content-Length", 5_000_000);
                c.write_all(&call.head()).unwrap();
                c.write_all(&pattern(1 + round * 33_333)).unwrap();
                match round % 3 {
                    0 => {
                        c.conn.send_close_notify();
                        c.flush().unwrap();
                    }
                    1 => c.sock.write_all(&[23, 3, 3, 0x40, 0, 1, 2, 3]).unwrap(),
                    _ => c.sock.shutdown(Shutdown::Both).unwrap(),
                }
                drop(c);
                // In mid-answer.
                let mut c = open(address, &trusted);
                c.write_all(&Call::new("PUT", "/bucket/big").with_body(&pattern(2_000_000)))
                    .unwrap();
                assert_eq!(reply(&mut c).0, 200);
                c.write_all(&Call::new("GET", "/bucket/big").head())
                    .unwrap();
                c.read_exact(&mut [0; 1000]).unwrap();
            }
        };
        client(&server, &trusted, talk).await;
        settled(&server).await;
        assert_eq!(pool_usage(), before, "buffers were left behind");
    });
}

/// Waits until no connection is open.
async fn settled(server: &Server) {
    while server.connections() > 0 {
        sleep(Duration::from_millis(5)).await;
    }
}
