//! Conditions on writes, and checksums.

use super::*;

const ETAG: &str = "\"5d41402abc4b2a76b9719d911017c592\"";

#[test]
fn conditional_writes_take_effect_or_change_nothing() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let key = |name: &str| format!("/bucket/{name}");
        let put = |name: &str| Call::new("PUT", &key(name));
        let first = put("k").field("If-None-Match", "*");
        assert_eq!(call(c, first, b"hello").await.status, 200);
        for (name, field, value, code) in [
            ("k", "If-None-Match", "*", "PreconditionFailed"),
            ("k", "If-None-Match", ETAG, "NotImplemented"),
            ("k", "If-Match", "\"other\"", "PreconditionFailed"),
            (
                "k",
                "If-Match",
                "\"5d41402abc4b2a76b9719d911017c593\"",
                "PreconditionFailed",
            ),
            (
                "k",
                "If-Match",
                "\"5d41402abc4b2a76b9719d911017c592-1\"",
                "PreconditionFailed",
            ),
            ("no", "If-Match", "*", "NoSuchKey"),
            ("no", "If-Match", ETAG, "NoSuchKey"),
            ("no", "If-Match", "\"other\"", "NoSuchKey"),
            ("k", "If-Unmodified-Since", "x", "NotImplemented"),
        ] {
            let reply = call(c, put(name).field(field, value), b"after").await;
            assert_eq!(reply.code(), code, "{name} {field}: {value}");
            let delete = Call::new("DELETE", &key(name)).field(field, value);
            let reply = call(c, delete, b"").await;
            let code = match field {
                "If-None-Match" => "NotImplemented",
                _ => code,
            };
            assert_eq!(reply.code(), code, "delete {name} {field}: {value}");
            assert_eq!(server.store.object("bucket", "k").unwrap().1, b"hello");
            assert!(server.store.object("bucket", "no").is_none());
        }
        let both = put("k").field("If-Match", "*").field("If-None-Match", "*");
        assert_eq!(call(c, both, b"after").await.code(), "InvalidRequest");
        let again = put("k").field("If-Match", ETAG);
        assert_eq!(call(c, again, b"hello").await.status, 200);
        let any = put("k").field("If-Match", "*");
        assert_eq!(call(c, any, b"hello").await.status, 200);
        for (value, status) in [(ETAG, 204), ("*", 404)] {
            let delete = Call::new("DELETE", "/bucket/k").field("If-Match", value);
            assert_eq!(call(c, delete, b"").await.status, status);
        }
        // Without a condition, what is not there is gone already.
        let delete = Call::new("DELETE", "/bucket/k");
        assert_eq!(call(c, delete, b"").await.status, 204);
        assert_eq!(
            call(c, put("k").field("If-None-Match", "*"), b"x")
                .await
                .status,
            200
        );
        let delete = Call::new("DELETE", "/bucket/k").field("If-Match", "*");
        assert_eq!(call(c, delete, b"").await.status, 204);
    });
}

#[test]
fn checksums_are_stored_and_returned_on_request() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let body = pattern(200_000);
        let crc64 = checksum(Algorithm::Crc64Nvme, &body);
        let plain = call(c, Call::new("PUT", "/bucket/plain"), &body).await;
        // Stored all the same, but nobody asked.
        assert!(!plain.head.contains("x-amz-checksum"), "{}", plain.head);
        for algorithm in Algorithm::ALL {
            let value = checksum(algorithm, &body);
            let target = format!("/bucket/{}", algorithm.name());
            let put = Call::new("PUT", &target)
                .field(algorithm.header(), &value)
                .field("x-amz-sdk-checksum-algorithm", algorithm.name());
            let put = call(c, put, &body).await;
            assert_eq!(put.header(algorithm.header()), Some(&value[..]));
            assert_eq!(put.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
            let wrong = Call::new("PUT", &target).field(algorithm.header(), &value);
            assert_eq!(call(c, wrong, &body[1..]).await.code(), "BadDigest");
        }
        let mode = |method, target: &str| {
            Call::new(method, target).field("x-amz-checksum-mode", "ENABLED")
        };
        for method in ["GET", "HEAD"] {
            let got = call(c, mode(method, "/bucket/plain"), b"").await;
            assert_eq!(got.header("x-amz-checksum-crc64nvme"), Some(&crc64[..]));
            assert_eq!(got.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
            for algorithm in Algorithm::ALL {
                let target = format!("/bucket/{}", algorithm.name());
                let got = call(c, mode(method, &target), b"").await;
                assert_eq!(
                    got.header(algorithm.header()),
                    Some(&checksum(algorithm, &body)[..])
                );
            }
            let part = call(c, mode(method, "/bucket/plain?partNumber=1"), b"").await;
            assert_eq!(part.status, 206);
            assert_eq!(part.header("content-range"), Some("bytes 0-199999/200000"));
            assert_eq!(part.header("x-amz-checksum-crc64nvme"), Some(&crc64[..]));
            assert_eq!(part.header("x-amz-mp-parts-count"), None);
            // A checksum of the whole beside a part of it would be found wrong.
            let ranged = mode(method, "/bucket/plain").field("Range", "bytes=0-9");
            let unasked = Call::new(method, "/bucket/plain");
            let unmodified = mode(method, "/bucket/plain").field("If-None-Match", "*");
            for (call_, status) in [(ranged, 206), (unasked, 200), (unmodified, 304)] {
                let reply = call(c, call_, b"").await;
                assert_eq!(reply.status, status);
                assert!(!reply.head.contains("x-amz-checksum"), "{}", reply.head);
            }
        }
        let other = Call::new("GET", "/bucket/plain").field("x-amz-checksum-mode", "DISABLED");
        assert_eq!(call(c, other, b"").await.code(), "InvalidArgument");
        let put = || Call::new("PUT", "/bucket/bad");
        let crc32 = checksum(Algorithm::Crc32, b"abc");
        let bad = [
            (
                put().field("x-amz-sdk-checksum-algorithm", "CRC32"),
                "InvalidRequest",
            ),
            (
                put()
                    .field("x-amz-sdk-checksum-algorithm", "SHA1")
                    .field("x-amz-checksum-crc32", &crc32),
                "InvalidRequest",
            ),
            (
                put().field("x-amz-checksum-sha512", "AAAA"),
                "NotImplemented",
            ),
            (
                put().field("x-amz-checksum-algorithm", "CRC32"),
                "NotImplemented",
            ),
        ];
        for (call_, code) in bad {
            let mut client = Client::connect(&server).await;
            assert_eq!(call(&mut client, call_, b"abc").await.code(), code);
            assert!(server.store.object("bucket", "bad").is_none());
        }
    });
}

#[test]
fn part_numbers_of_plain_objects() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        call(c, Call::new("PUT", "/bucket/k"), b"hello").await;
        call(c, Call::new("PUT", "/bucket/empty"), b"").await;
        let one = call(c, Call::new("GET", "/bucket/k?partNumber=1"), b"").await;
        assert_eq!((one.status, &one.body[..]), (206, &b"hello"[..]));
        let empty = call(c, Call::new("GET", "/bucket/empty?partNumber=1"), b"").await;
        assert_eq!((empty.status, empty.body.len()), (200, 0));
        for (number, status, code) in [
            ("2", 416, "InvalidPartNumber"),
            ("10000", 416, "InvalidPartNumber"),
            ("0", 400, "InvalidArgument"),
            ("10001", 400, "InvalidArgument"),
            ("-1", 400, "InvalidArgument"),
            ("a", 400, "InvalidArgument"),
            ("", 400, "InvalidArgument"),
            ("%FF", 400, "InvalidArgument"),
        ] {
            let target = format!("/bucket/k?partNumber={number}");
            let reply = call(c, Call::new("GET", &target), b"").await;
            assert_eq!(
                (reply.status, &reply.code()[..]),
                (status, code),
                "{number}"
            );
            let head = call(c, Call::new("HEAD", &target), b"").await;
            assert_eq!((head.status, head.body.len()), (status, 0), "{number}");
        }
        let both = Call::new("GET", "/bucket/k?partNumber=1").field("Range", "bytes=0-1");
        assert_eq!(call(c, both, b"").await.code(), "InvalidRequest");
    });
}

#[test]
fn attributes_of_plain_objects() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        call(c, Call::new("PUT", "/bucket/k"), b"hello").await;
        let ask = |value: &str| {
            Call::new("GET", "/bucket/k?attributes").field("x-amz-object-attributes", value)
        };
        let all = call(
            c,
            ask("ETag,Checksum, ObjectParts,StorageClass,ObjectSize"),
            b"",
        )
        .await;
        assert_eq!(all.status, 200, "{}", all.text());
        assert_eq!(all.element("ETag"), ETAG.trim_matches('"'));
        assert_eq!(
            all.element("ChecksumCRC64NVME"),
            checksum(Algorithm::Crc64Nvme, b"hello")
        );
        assert_eq!(all.element("ChecksumType"), "FULL_OBJECT");
        assert_eq!(all.element("StorageClass"), "STANDARD");
        assert_eq!(all.element("ObjectSize"), "5");
        assert!(!all.text().contains("ObjectParts"));
        assert!(all.header("last-modified").is_some());
        let one = ask("ObjectSize").field("x-amz-object-attributes", "ETag");
        let one = call(c, one, b"").await.text();
        assert!(one.contains("ObjectSize") && one.contains("ETag") && !one.contains("Checksum"));
        for (call_, code) in [
            (ask("etag"), "InvalidArgument"),
            (ask("ETag,"), "InvalidArgument"),
            (ask(""), "InvalidArgument"),
            (Call::new("GET", "/bucket/k?attributes"), "InvalidRequest"),
            (
                ask("ETag").field("x-amz-max-parts", "-1"),
                "InvalidArgument",
            ),
            (
                ask("ETag").field("x-amz-part-number-marker", "x"),
                "InvalidArgument",
            ),
            (ask("ETag").user("OTHER"), "AccessDenied"),
        ] {
            assert_eq!(call(c, call_, b"").await.code(), code);
        }
        let gone =
            Call::new("GET", "/bucket/no?attributes").field("x-amz-object-attributes", "ETag");
        assert_eq!(call(c, gone, b"").await.code(), "NoSuchKey");
    });
}
