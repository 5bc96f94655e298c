//! Copies of objects.

use super::*;
use crate::object::PUT_SIZE_MAX;

fn copy(target: &str, source: &str) -> Call {
    Call::new("PUT", target).field("x-amz-copy-source", source)
}

#[test]
fn objects_are_copied_with_what_is_said_about_them() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        for size in [0usize, 5, 3_000_000] {
            let body = pattern(size);
            let put = Call::new("PUT", "/bucket/a%20b/%3F")
                .field("Content-Type", "text/x")
                .field("x-amz-meta-a", "1")
                .field("x-amz-storage-class", "REDUCED_REDUNDANCY");
            assert_eq!(call(c, put, &body).await.status, 200);
            for source in ["/bucket/a%20b/%3F", "bucket/a%20b%2F%3F?versionId=null"] {
                let done = call(c, copy("/bucket/to", source), b"").await;
                assert_eq!(done.status, 200, "{}", done.text());
                let (info, bytes) = server.store.object("bucket", "to").unwrap();
                assert!(bytes == body);
                assert_eq!(done.element("ETag"), format!("\"{}\"", info.etag));
                assert!(done.element("LastModified").ends_with('Z'));
                assert_eq!(
                    done.element("ChecksumCRC64NVME"),
                    checksum(Algorithm::Crc64Nvme, &body)
                );
                assert_eq!(info.headers.content_type.as_deref(), Some("text/x"));
                assert_eq!(info.headers.user, [("a".to_owned(), "1".to_owned())]);
                // The class is what the copy asks for.
                assert_eq!(info.headers.storage_class, None);
            }
        }
        let body = pattern(3_000_000);
        let replaced = copy("/bucket/to", "/bucket/a%20b/%3F")
            .field("x-amz-metadata-directive", "REPLACE")
            .field("x-amz-tagging-directive", "COPY")
            .field("x-amz-meta-b", "2")
            .field("x-amz-storage-class", "REDUCED_REDUNDANCY")
            .field("x-amz-checksum-algorithm", "SHA256");
        let replaced = call(c, replaced, b"").await;
        assert_eq!(
            replaced.element("ChecksumSHA256"),
            checksum(Algorithm::Sha256, &body)
        );
        let (info, bytes) = server.store.object("bucket", "to").unwrap();
        assert!(bytes == body);
        assert_eq!(info.headers.content_type, None);
        assert_eq!(info.headers.user, [("b".to_owned(), "2".to_owned())]);
        assert_eq!(
            info.headers.storage_class.as_deref(),
            Some("REDUCED_REDUNDANCY")
        );
        // The algorithm of the source stays.
        call(c, copy("/bucket/third", "/bucket/to"), b"").await;
        let (info, _) = server.store.object("bucket", "third").unwrap();
        assert_eq!(
            info.checksum.unwrap().0.base64(),
            checksum(Algorithm::Sha256, &body)
        );
        // Onto itself only with a change.
        let same = || copy("/bucket/to", "/bucket/to");
        assert_eq!(call(c, same(), b"").await.code(), "InvalidRequest");
        let tags = same().field("x-amz-tagging-directive", "REPLACE");
        assert_eq!(call(c, tags, b"").await.code(), "InvalidRequest");
        let renewed = same().field("x-amz-metadata-directive", "REPLACE");
        assert_eq!(call(c, renewed, b"").await.status, 200);
        let (info, bytes) = server.store.object("bucket", "to").unwrap();
        assert!(bytes == body && info.headers.user.is_empty());
        let class = same().field("x-amz-storage-class", "STANDARD");
        assert_eq!(call(c, class, b"").await.status, 200);
    });
}

#[test]
fn copies_that_may_not_be_are_refused() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let other = |method, target: &str| Call::new(method, target).user("OTHER");
        assert_eq!(call(c, other("PUT", "/others"), b"").await.status, 200);
        assert_eq!(
            call(c, other("PUT", "/others/k"), b"theirs").await.status,
            200
        );
        assert_eq!(
            call(c, Call::new("PUT", "/bucket/k"), b"hello")
                .await
                .status,
            200
        );
        assert_eq!(
            call(c, Call::new("PUT", "/bucket/to"), b"before")
                .await
                .status,
            200
        );
        let to = || copy("/bucket/to", "/bucket/k");
        let etag = "\"5d41402abc4b2a76b9719d911017c592\"";
        let theirs = |target: &str, source: &str| copy(target, source).user("OTHER");
        let cases = [
            (theirs("/others/to", "/bucket/k"), "AccessDenied"),
            (theirs("/bucket/to", "/others/k"), "AccessDenied"),
            (theirs("/bucket/to", "/bucket/k"), "AccessDenied"),
            (theirs("/others/to", "/bucket/no"), "AccessDenied"),
            (
                theirs("/others/to", "/bucket/k?versionId=1"),
                "AccessDenied",
            ),
            (
                to().field("x-amz-source-expected-bucket-owner", "other-id"),
                "AccessDenied",
            ),
            (
                to().field("x-amz-expected-bucket-owner", "other-id"),
                "AccessDenied",
            ),
            (copy("/bucket/to", "/bucket/no"), "NoSuchKey"),
            (copy("/bucket/to", "/nothing/k"), "NoSuchBucket"),
            (copy("/bucket/to", "/arn:aws:s3:::a/k"), "InvalidBucketName"),
            (copy("/nothing/to", "/bucket/k"), "NoSuchBucket"),
            (copy("/bucket/to", "/bucket/k?versionId=1"), "NoSuchVersion"),
            (copy("/bucket/to", "bucket"), "InvalidArgument"),
            (copy("/bucket/to", "bucket/%FF"), "InvalidArgument"),
            (copy("/bucket/to", ""), "InvalidArgument"),
            (
                to().field("x-amz-metadata-directive", "MERGE"),
                "InvalidArgument",
            ),
            (
                to().field("x-amz-tagging-directive", "x"),
                "InvalidArgument",
            ),
            (to().field("x-amz-tagging", "a=b"), "NotImplemented"),
            (to().field("x-amz-acl", "public-read"), "NotImplemented"),
            (
                to().field("x-amz-server-side-encryption", "AES256"),
                "NotImplemented",
            ),
            (
                to().field(
                    "x-amz-copy-source-server-side-encryption-customer-algorithm",
                    "AES256",
                ),
                "NotImplemented",
            ),
            (
                to().field("x-amz-checksum-algorithm", "MD5"),
                "NotImplemented",
            ),
            (
                to().field("x-amz-checksum-algorithm", "x"),
                "InvalidRequest",
            ),
            (
                to().field("x-amz-copy-source-range", "bytes=0-1"),
                "NotImplemented",
            ),
            (
                to().field("x-amz-copy-source-if-match", "\"x\""),
                "PreconditionFailed",
            ),
            (
                to().field("x-amz-copy-source-if-none-match", etag),
                "PreconditionFailed",
            ),
            (to().field("If-None-Match", "*"), "PreconditionFailed"),
            (to().field("If-Match", etag), "PreconditionFailed"),
            (
                to().field("x-amz-copy-source", "/bucket/k"),
                "InvalidRequest",
            ),
        ];
        for (call_, code) in cases {
            let mut client = Client::connect(&server).await;
            let shown = format!("{:?} {}", call_.fields, call_.access_key);
            let reply = call(&mut client, call_, b"").await;
            assert_eq!(reply.code(), code, "{shown}: {}", reply.text());
            assert_eq!(server.store.object("bucket", "to").unwrap().1, b"before");
            assert!(server.store.object("others", "to").is_none());
        }
        let fine = to()
            .field("x-amz-copy-source-if-match", etag)
            .field("If-Match", "*");
        assert_eq!(call(c, fine, b"").await.status, 200);
        assert_eq!(server.store.object("bucket", "to").unwrap().1, b"hello");
        // A header that nobody signed makes no copy.
        let plain = Call::new("PUT", "/bucket/to").field("Content-Length", 0);
        let head = String::from_utf8(plain.head()).unwrap();
        let turned = head.replacen("\r\n", "\r\nx-amz-copy-source: /bucket/k\r\n", 1);
        c.send(turned.as_bytes()).await;
        assert_eq!(c.reply(false).await.code(), "AccessDenied");
    });
}

#[test]
fn a_source_that_breaks_is_an_error_and_no_object() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        call(c, Call::new("PUT", "/bucket/k"), &pattern(500_000)).await;
        server.store.break_after(Some(200_000));
        let reply = call(c, copy("/bucket/to", "/bucket/k"), b"").await;
        assert_eq!(
            (reply.status, reply.code()),
            (500, "InternalError".to_owned())
        );
        assert!(server.store.object("bucket", "to").is_none());
        server.store.break_after(None);
        // The same connection goes on.
        let reply = call(c, copy("/bucket/to", "/bucket/k"), b"").await;
        assert_eq!(reply.status, 200);
        assert!(server.store.object("bucket", "to").unwrap().1 == pattern(500_000));
    });
}

#[test]
fn a_copy_is_at_most_as_large_as_a_put() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        call(c, Call::new("PUT", "/bucket/k"), b"hello").await;
        let begun = call(c, Call::new("POST", "/bucket/to?uploads"), b"").await;
        let part = format!(
            "/bucket/to?partNumber=1&uploadId={}",
            begun.element("UploadId")
        );
        for (size, code) in [
            // It is read, and is found to be shorter than it said.
            (PUT_SIZE_MAX, "InternalError"),
            (PUT_SIZE_MAX + 1, "InvalidRequest"),
        ] {
            server.store.pretend_size("bucket", "k", size);
            for target in ["/bucket/to", &part] {
                let reply = call(c, copy(target, "/bucket/k"), b"").await;
                assert_eq!(reply.code(), code, "{size} to {target}");
            }
            assert!(server.store.object("bucket", "to").is_none());
            let end = copy(&part, "/bucket/k").field("x-amz-copy-source-range", "bytes=1-4");
            assert_eq!(call(c, end, b"").await.status, 200);
        }
    });
}

#[test]
fn more_copies_than_have_room_wait_for_each_other() {
    with_arena(8 << 20, |server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        call(c, Call::new("PUT", "/bucket/small"), &pattern(100_000)).await;
        call(c, Call::new("PUT", "/bucket/large"), &pattern(1_500_000)).await;
        let copies: Vec<_> = (0..40)
            .map(|number| {
                let server = Rc::clone(&server);
                spawn(async move {
                    let source = ["small", "large"][number % 2];
                    let mut client = Client::connect(&server).await;
                    let target = format!("/bucket/{number}");
                    let source = format!("bucket/{source}");
                    let reply = call(&mut client, copy(&target, &source), b"").await;
                    assert_eq!(reply.status, 200, "{}", reply.text());
                })
            })
            .collect();
        for copy in copies {
            copy.await;
        }
        for number in 0..40 {
            let size = [100_000, 1_500_000][number % 2];
            let (_, bytes) = server.store.object("bucket", &number.to_string()).unwrap();
            assert!(bytes == pattern(size));
        }
    });
}
