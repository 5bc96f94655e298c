//! Multipart uploads.

use super::*;
use crate::object::PART_SIZE_MIN;

async fn begin(c: &mut Client, target: &str, fields: &[(&str, &str)]) -> String {
    let mut create = Call::new("POST", &format!("{target}?uploads"));
    for (name, value) in fields {
        create = create.field(name, value);
    }
    let reply = call(c, create, b"").await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let id = reply.element("UploadId");
    assert_eq!(id.len(), 32);
    id
}

fn part(target: &str, id: &str, number: impl ToString) -> Call {
    let number = number.to_string();
    Call::new(
        "PUT",
        &format!("{target}?partNumber={number}&uploadId={id}"),
    )
}

async fn upload(c: &mut Client, target: &str, id: &str, number: u16, body: &[u8]) -> String {
    let reply = call(c, part(target, id, number), body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.header("etag").unwrap().to_owned()
}

fn document(parts: &[(u16, &str)]) -> String {
    let mut text =
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">".to_owned();
    for (number, etag) in parts {
        text.push_str(&format!(
            "<Part><ETag>{etag}</ETag><PartNumber>{number}</PartNumber></Part>"
        ));
    }
    text + "</CompleteMultipartUpload>"
}

fn complete(target: &str, id: &str) -> Call {
    Call::new("POST", &format!("{target}?uploadId={id}"))
}

async fn post(c: &mut Client, call_: Call, body: &str) -> Reply {
    c.send(&call_.with_body(body.as_bytes())).await;
    c.reply(false).await
}

#[test]
fn parts_become_an_object() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let target = "/bucket/a%20b/%3C%E2%82%AC";
        let id = begin(
            c,
            target,
            &[("Content-Type", "text/x"), ("x-amz-meta-a", "1")],
        )
        .await;
        let size = PART_SIZE_MIN as usize;
        let bodies = [pattern(size), pattern(size + 1), pattern(10)];
        // Out of order, and one of them twice.
        let third = upload(c, target, &id, 9, &bodies[2]).await;
        upload(c, target, &id, 2, b"an earlier try").await;
        let second = upload(c, target, &id, 2, &bodies[1]).await;
        let first = upload(c, target, &id, 1, &bodies[0]).await;
        assert_eq!(first, format!("\"{:x}\"", md5::Md5::digest(&bodies[0])));
        assert!(server.store.object("bucket", "a b/<€").is_none());

        let list = Call::new("GET", &format!("{target}?uploadId={id}&max-parts=2"));
        let list = call(c, list, b"").await;
        assert_eq!(list.element("Key"), "a b/&lt;€");
        assert_eq!(list.element("IsTruncated"), "true");
        assert_eq!(list.element("NextPartNumberMarker"), "2");
        assert_eq!(list.text().matches("<Part>").count(), 2);
        assert!(list.text().contains("<Size>5242881</Size>"));
        assert!(list.text().contains("<ID>root-id</ID>"));
        let rest = format!("{target}?uploadId={id}&part-number-marker=2&encoding-type=url");
        let rest = call(c, Call::new("GET", &rest), b"").await;
        assert_eq!(rest.element("Key"), "a%20b/%3C%E2%82%AC");
        assert_eq!(rest.element("PartNumber"), "9");
        assert_eq!(rest.element("IsTruncated"), "false");
        assert_eq!(
            rest.element("ChecksumCRC64NVME"),
            checksum(Algorithm::Crc64Nvme, &bodies[2])
        );

        let parts = document(&[(1, &first), (2, &second), (9, &third)]);
        let done = post(c, complete(target, &id), &parts).await;
        assert_eq!(done.status, 200, "{}", done.text());
        let whole = bodies.concat();
        let crc = checksum(Algorithm::Crc64Nvme, &whole);
        assert_eq!(done.element("ChecksumCRC64NVME"), crc);
        assert_eq!(done.element("ChecksumType"), "FULL_OBJECT");
        assert!(done.element("ETag").ends_with("-3\""));
        assert_eq!(
            done.element("Location"),
            "http://127.0.0.1/bucket/a%20b/%3C%E2%82%AC"
        );
        let (info, bytes) = server.store.object("bucket", "a b/<€").unwrap();
        assert!(bytes == whole);
        assert_eq!(info.headers.content_type.as_deref(), Some("text/x"));
        // A client that did not hear of it asks again.
        let again = post(c, complete(target, &id), &parts).await;
        assert_eq!(again.element("ETag"), done.element("ETag"));
        for call_ in [
            part(target, &id, 1),
            Call::new("GET", &format!("{target}?uploadId={id}")),
            Call::new("DELETE", &format!("{target}?uploadId={id}")),
        ] {
            assert_eq!(call(c, call_, b"").await.code(), "NoSuchUpload");
        }

        for (number, body, range) in [
            (1, &bodies[0], "bytes 0-5242879/10485771"),
            (2, &bodies[1], "bytes 5242880-10485760/10485771"),
            (9, &bodies[2], "bytes 10485761-10485770/10485771"),
        ] {
            let target = format!("{target}?partNumber={number}");
            let get = Call::new("GET", &target).field("x-amz-checksum-mode", "ENABLED");
            let got = call(c, get, b"").await;
            assert!(got.status == 206 && got.body == *body);
            assert_eq!(got.header("content-range"), Some(range));
            assert_eq!(got.header("x-amz-mp-parts-count"), Some("3"));
            assert_eq!(
                got.header("x-amz-checksum-crc64nvme"),
                Some(&checksum(Algorithm::Crc64Nvme, body)[..])
            );
            let head = call(c, Call::new("HEAD", &target), b"").await;
            assert_eq!(
                head.header("content-length"),
                Some(&body.len().to_string()[..])
            );
            assert_eq!(head.header("x-amz-mp-parts-count"), Some("3"));
        }
        for number in [3, 10] {
            let get = Call::new("GET", &format!("{target}?partNumber={number}"));
            let got = call(c, get, b"").await;
            assert_eq!(got.code(), "InvalidPartNumber");
            assert_eq!(got.element("ActualPartCount"), "3");
        }
        let whole = Call::new("GET", target).field("x-amz-checksum-mode", "ENABLED");
        let whole = call(c, whole, b"").await;
        assert_eq!(whole.header("x-amz-checksum-crc64nvme"), Some(&crc[..]));
        assert_eq!(whole.header("x-amz-mp-parts-count"), None);

        let ask = |max, after| {
            Call::new("GET", &format!("{target}?attributes"))
                .field("x-amz-object-attributes", "ObjectParts,Checksum")
                .field("x-amz-max-parts", max)
                .field("x-amz-part-number-marker", after)
        };
        let attributes = call(c, ask(2, 0), b"").await;
        assert_eq!(attributes.element("PartsCount"), "3");
        assert_eq!(attributes.element("NextPartNumberMarker"), "2");
        assert_eq!(attributes.element("IsTruncated"), "true");
        assert_eq!(attributes.text().matches("<Part>").count(), 2);
        let attributes = call(c, ask(2, 2), b"").await;
        assert_eq!(attributes.element("PartNumber"), "9");
        assert_eq!(attributes.element("IsTruncated"), "false");
        let attributes = call(c, ask(0, 99_999_999), b"").await;
        assert_eq!(attributes.element("IsTruncated"), "false");
    });
}

#[test]
fn checksums_of_uploads() {
    with_server(|server| async move {
        server.store.allow_parts_of(1);
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let bodies = [pattern(100_000), pattern(50)];
        for (algorithm, kind, sent_kind) in [
            (Algorithm::Crc32, "COMPOSITE", None),
            (Algorithm::Crc32, "FULL_OBJECT", Some("FULL_OBJECT")),
            (Algorithm::Crc32c, "COMPOSITE", Some("COMPOSITE")),
            (Algorithm::Crc32c, "FULL_OBJECT", Some("FULL_OBJECT")),
            (Algorithm::Crc64Nvme, "FULL_OBJECT", None),
            (Algorithm::Sha1, "COMPOSITE", None),
            (Algorithm::Sha256, "COMPOSITE", Some("COMPOSITE")),
        ] {
            let mut create = Call::new("POST", "/bucket/k?uploads")
                .field("x-amz-checksum-algorithm", algorithm.name());
            if let Some(kind) = sent_kind {
                create = create.field("x-amz-checksum-type", kind);
            }
            let begun = call(c, create, b"").await;
            assert_eq!(
                begun.header("x-amz-checksum-algorithm"),
                Some(algorithm.name())
            );
            assert_eq!(begun.header("x-amz-checksum-type"), Some(kind));
            let id = begun.element("UploadId");
            // Another algorithm, or none where the client will need it.
            let other = match algorithm {
                Algorithm::Sha1 => Algorithm::Crc32,
                _ => Algorithm::Sha1,
            };
            let wrong =
                part("/bucket/k", &id, 1).field(other.header(), checksum(other, &bodies[0]));
            // Refused before the body, so the connection may close.
            let mut early = Client::connect(&server).await;
            let wrong = call(&mut early, wrong, &bodies[0]).await;
            assert_eq!(wrong.code(), "InvalidRequest");
            let mut early = Client::connect(&server).await;
            let none = call(&mut early, part("/bucket/k", &id, 1), &bodies[0]).await;
            assert_eq!(none.status, if kind == "COMPOSITE" { 400 } else { 200 });

            let element = algorithm.element();
            let mut text = String::new();
            let mut digests = Vec::new();
            for (at, body) in bodies.iter().enumerate() {
                let value = checksum(algorithm, body);
                let call_ = part("/bucket/k", &id, at + 1).field(algorithm.header(), &value);
                let done = call(c, call_, body).await;
                assert_eq!(done.header(algorithm.header()), Some(&value[..]));
                text.push_str(&format!(
                    "<Part><{element}>{value}</{element}><ETag>{}</ETag><PartNumber>{}</PartNumber></Part>",
                    done.header("etag").unwrap(),
                    at + 1
                ));
                let mut hasher = Hasher::new(algorithm);
                hasher.update(body);
                digests.extend_from_slice(hasher.finish().bytes());
            }
            let wrap =
                |text: &str| format!("<CompleteMultipartUpload>{text}</CompleteMultipartUpload>");
            let expected = match kind {
                "COMPOSITE" => format!("{}-2", checksum(algorithm, &digests)),
                _ => checksum(algorithm, &bodies.concat()),
            };
            let finish = || complete("/bucket/k", &id);
            let bare = expected.trim_end_matches("-2").to_owned();
            let other_kind = match kind {
                "COMPOSITE" => "FULL_OBJECT",
                _ => "COMPOSITE",
            };
            for (call_, code) in [
                (
                    finish().field(algorithm.header(), checksum(algorithm, b"x")),
                    "BadDigest",
                ),
                (
                    finish().field(algorithm.header(), format!("{bare}-3")),
                    "InvalidRequest",
                ),
                (
                    finish().field(other.header(), checksum(other, b"x")),
                    "InvalidRequest",
                ),
                (
                    finish().field("x-amz-checksum-type", other_kind),
                    "InvalidRequest",
                ),
                (
                    finish().field("x-amz-mp-object-size", 100_051),
                    "InvalidRequest",
                ),
            ] {
                let reply = post(c, call_, &wrap(&text)).await;
                assert_eq!(reply.code(), code, "{algorithm:?}: {}", reply.text());
            }
            let without: String = {
                let value = checksum(algorithm, &bodies[1]);
                text.replace(&format!("<{element}>{value}</{element}>"), "")
            };
            if kind == "COMPOSITE" {
                let reply = post(c, finish(), &wrap(&without)).await;
                assert!(
                    reply.text().contains("missing for part 2"),
                    "{}",
                    reply.text()
                );
            }
            let wrong = text.replace(
                &checksum(algorithm, &bodies[1]),
                &checksum(algorithm, &bodies[0]),
            );
            let reply = post(c, finish(), &wrap(&wrong)).await;
            assert_eq!(reply.code(), "InvalidPart");
            assert!(server.store.object("bucket", "k").is_none());

            let call_ = finish()
                .field(algorithm.header(), &expected)
                .field("x-amz-checksum-type", kind)
                .field("x-amz-mp-object-size", 100_050);
            let done = post(c, call_, &wrap(&text)).await;
            assert_eq!(done.status, 200, "{}", done.text());
            assert_eq!(done.element(element), expected);
            assert_eq!(done.element("ChecksumType"), kind);
            let get = || Call::new("GET", "/bucket/k").field("x-amz-checksum-mode", "ENABLED");
            let got = call(c, get(), b"").await;
            assert_eq!(got.header(algorithm.header()), Some(&expected[..]));
            assert_eq!(got.header("x-amz-checksum-type"), Some(kind));
            let attributes = Call::new("GET", "/bucket/k?attributes")
                .field("x-amz-object-attributes", "Checksum");
            assert_eq!(call(c, attributes, b"").await.element(element), bare);

            // A copy is no upload: its checksum is of all its bytes.
            let copy = Call::new("PUT", "/bucket/copy").field("x-amz-copy-source", "bucket/k");
            let copied = call(c, copy, b"").await;
            assert_eq!(
                copied.element(element),
                checksum(algorithm, &bodies.concat())
            );
            assert_eq!(copied.element("ChecksumType"), "FULL_OBJECT");
            call(c, Call::new("DELETE", "/bucket/k"), b"").await;
        }
    });
}

/// SDKs begin without a word about checksums, and send every part with one.
#[test]
fn uploads_without_a_checksum_take_parts_with_any() {
    with_server(|server| async move {
        server.store.allow_parts_of(1);
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let bodies = [pattern(1000), pattern(50)];
        let whole = bodies.concat();
        for (algorithms, joined) in [
            ([Some(Algorithm::Crc32); 2], Some(Algorithm::Crc32)),
            ([Some(Algorithm::Crc32c); 2], Some(Algorithm::Crc32c)),
            ([None; 2], Some(Algorithm::Crc64Nvme)),
            (
                [None, Some(Algorithm::Crc64Nvme)],
                Some(Algorithm::Crc64Nvme),
            ),
            ([Some(Algorithm::Sha256); 2], None),
            ([Some(Algorithm::Crc32), None], None),
        ] {
            let id = begin(c, "/bucket/k", &[]).await;
            let mut text = String::new();
            for (at, (body, algorithm)) in bodies.iter().zip(algorithms).enumerate() {
                let mut call_ = part("/bucket/k", &id, at + 1);
                let mut named = String::new();
                if let Some(algorithm) = algorithm {
                    let value = checksum(algorithm, body);
                    call_ = call_.field(algorithm.header(), &value);
                    let element = algorithm.element();
                    named = format!("<{element}>{value}</{element}>");
                }
                let done = call(c, call_, body).await;
                let etag = done.header("etag").unwrap();
                text.push_str(&format!(
                    "<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag>{named}</Part>",
                    at + 1
                ));
            }
            let text = format!("<CompleteMultipartUpload>{text}</CompleteMultipartUpload>");
            let done = post(c, complete("/bucket/k", &id), &text).await;
            assert_eq!(done.status, 200, "{}", done.text());
            let expected = joined.map(|algorithm| checksum(algorithm, &whole));
            let element = joined.map_or("ChecksumType", Algorithm::element);
            assert_eq!(done.element(element), expected.unwrap_or_default());
        }
    });
}

#[test]
fn wrong_parts_and_completions_are_refused() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let id = begin(c, "/bucket/k", &[]).await;
        let size = PART_SIZE_MIN as usize;
        let large = upload(c, "/bucket/k", &id, 1, &pattern(size)).await;
        let almost = upload(c, "/bucket/k", &id, 2, &pattern(size - 1)).await;
        let last = upload(c, "/bucket/k", &id, 10_000, b"last").await;
        let nobody = "00000000000000000000000000000000";

        for (call_, code) in [
            (part("/bucket/k", &id, 0), "InvalidArgument"),
            (part("/bucket/k", &id, 10_001), "InvalidArgument"),
            (part("/bucket/k", &id, "x"), "InvalidArgument"),
            (part("/bucket/k", &id, ""), "InvalidArgument"),
            (part("/bucket/k", nobody, 1), "NoSuchUpload"),
            (part("/bucket/k", &id.to_uppercase(), 1), "NoSuchUpload"),
            (part("/bucket/k", &id[1..], 1), "NoSuchUpload"),
            (part("/bucket/k", "", 1), "NoSuchUpload"),
            (part("/bucket/k", "%FF", 1), "NoSuchUpload"),
            (part("/bucket/other", &id, 1), "NoSuchUpload"),
            (part("/bucket/k", &id, 1).user("OTHER"), "AccessDenied"),
            (
                part("/bucket/k", &id, 1).field("Content-MD5", "AAAAAAAAAAAAAAAAAAAAAA=="),
                "BadDigest",
            ),
            (
                part("/bucket/k", &id, 1).field("If-None-Match", "*"),
                "NotImplemented",
            ),
            (
                part("/bucket/k", &id, 1)
                    .field("x-amz-server-side-encryption-customer-algorithm", "AES256"),
                "NotImplemented",
            ),
        ] {
            let mut client = Client::connect(&server).await;
            let shown = call_.target.clone();
            let reply = call(&mut client, call_, b"wrong").await;
            assert_eq!(reply.code(), code, "{shown}");
        }
        // 5 GiB and no more; the body is not asked for.
        for (length, code) in [(5u64 << 30, 100), ((5 << 30) + 1, 400)] {
            let mut client = Client::connect(&server).await;
            let call_ = part("/bucket/k", &id, 3)
                .field("Content-Length", length)
                .field("Expect", "100-continue");
            client.send(&call_.head()).await;
            assert_eq!(client.reply(false).await.status, code, "{length}");
        }
        let unsized_ = part("/bucket/k", &id, 3).head();
        c.send(&unsized_).await;
        assert_eq!(c.reply(false).await.code(), "MissingContentLength");

        let finish = || complete("/bucket/k", &id);
        let good = document(&[(1, &large), (10_000, &last)]);
        let too_many: Vec<(u16, &str)> = (1..=10_001).map(|n| (n, &large[..])).collect();
        let huge = format!("{good}{}", " ".repeat(4 << 20));
        for (call_, text, code) in [
            (finish(), String::new(), "MalformedXML"),
            (finish(), document(&[]), "MalformedXML"),
            (finish(), "<Delete/>".to_owned(), "MalformedXML"),
            (finish(), good.replace("</Part>", ""), "MalformedXML"),
            (finish(), document(&too_many), "InvalidArgument"),
            (finish(), huge, "MaxMessageLengthExceeded"),
            (
                finish(),
                document(&[(10_000, &last), (1, &large)]),
                "InvalidPartOrder",
            ),
            (
                finish(),
                document(&[(1, &large), (1, &large)]),
                "InvalidPartOrder",
            ),
            (finish(), document(&[(0, &large)]), "InvalidArgument"),
            (finish(), document(&[(1, &last)]), "InvalidPart"),
            (finish(), document(&[(3, &large)]), "InvalidPart"),
            (finish(), document(&[(1, "x")]), "InvalidPart"),
            (
                finish(),
                document(&[(1, &large), (2, &almost), (10_000, &last)]),
                "EntityTooSmall",
            ),
            (complete("/bucket/other", &id), good.clone(), "NoSuchUpload"),
            (complete("/bucket/k", nobody), good.clone(), "NoSuchUpload"),
            (finish().user("OTHER"), good.clone(), "AccessDenied"),
            (finish().field("If-Match", "*"), good.clone(), "NoSuchKey"),
            (
                finish().field("If-Match", "\"x\""),
                good.clone(),
                "NoSuchKey",
            ),
            (
                finish().field("If-None-Match", "\"x\""),
                good.clone(),
                "NotImplemented",
            ),
            (
                finish().field("x-amz-mp-object-size", "x"),
                good.clone(),
                "InvalidArgument",
            ),
            (
                finish().field("x-amz-meta-a", "1"),
                document(&[]),
                "MalformedXML",
            ),
            (
                finish().sha256(&"0".repeat(64)),
                good.clone(),
                "XAmzContentSHA256Mismatch",
            ),
        ] {
            let mut client = Client::connect(&server).await;
            let reply = post(&mut client, call_, &text).await;
            assert_eq!(reply.code(), code, "{}", reply.text());
            assert!(server.store.object("bucket", "k").is_none());
        }
        call(c, Call::new("PUT", "/bucket/k"), b"before").await;
        let absent = finish().field("If-None-Match", "*");
        assert_eq!(post(c, absent, &good).await.code(), "PreconditionFailed");
        assert_eq!(server.store.object("bucket", "k").unwrap().1, b"before");
        assert_eq!(server.store.uploads_open(), 1);
        let done = post(c, finish().field("If-Match", "*"), &good).await;
        assert_eq!(done.status, 200, "{}", done.text());
        assert_eq!(server.store.uploads_open(), 0);
    });
}

#[test]
fn beginnings_and_ends_of_uploads() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let create = || Call::new("POST", "/bucket/k?uploads");
        for (call_, code) in [
            (create().user("OTHER"), "AccessDenied"),
            (Call::new("POST", "/nothing/k?uploads"), "NoSuchBucket"),
            (create().field("x-amz-acl", "public-read"), "NotImplemented"),
            (create().field("x-amz-tagging", "a=b"), "NotImplemented"),
            (
                create().field("x-amz-server-side-encryption", "AES256"),
                "NotImplemented",
            ),
            (
                create().field("x-amz-storage-class", "GLACIER"),
                "InvalidStorageClass",
            ),
            (
                create().field("x-amz-meta-a", "x".repeat(METADATA_TOO_MUCH)),
                "MetadataTooLarge",
            ),
            (
                create()
                    .field("x-amz-checksum-algorithm", "SHA256")
                    .field("x-amz-checksum-type", "FULL_OBJECT"),
                "InvalidRequest",
            ),
            (
                create().field("x-amz-checksum-algorithm", "XXHASH3"),
                "NotImplemented",
            ),
        ] {
            let mut client = Client::connect(&server).await;
            assert_eq!(call(&mut client, call_, b"").await.code(), code);
        }
        assert_eq!(server.store.uploads_open(), 0);
        let id = begin(c, "/bucket/k", &[("x-amz-acl", "private")]).await;
        let of = |method, key: &str, more: &str| {
            Call::new(method, &format!("/bucket/{key}?uploadId={id}{more}"))
        };
        for (call_, code) in [
            (of("GET", "k", "&max-parts=x"), "InvalidArgument"),
            (of("GET", "k", "&max-parts=-1"), "InvalidArgument"),
            (of("GET", "k", "&max-parts=2147483648"), "InvalidArgument"),
            (of("GET", "k", "&part-number-marker=x"), "InvalidArgument"),
            (of("GET", "k", "&encoding-type=x"), "InvalidArgument"),
            (of("GET", "other", ""), "NoSuchUpload"),
            (of("GET", "k", "").user("OTHER"), "AccessDenied"),
            (of("DELETE", "other", ""), "NoSuchUpload"),
            (of("DELETE", "k", "").user("OTHER"), "AccessDenied"),
            (
                of("DELETE", "k", "").field("x-amz-if-match-initiated-time", "x"),
                "NotImplemented",
            ),
        ] {
            let shown = call_.target.clone();
            assert_eq!(call(c, call_, b"").await.code(), code, "{shown}");
        }
        for more in [
            "",
            "&max-parts=0",
            "&max-parts=2147483647",
            "&part-number-marker=99999",
        ] {
            let list = call(c, of("GET", "k", more), b"").await;
            assert_eq!(list.element("IsTruncated"), "false", "{more}");
        }
        upload(c, "/bucket/k", &id, 1, b"abc").await;
        let none = call(c, of("GET", "k", "&max-parts=0"), b"").await;
        assert!(none.element("IsTruncated") == "false" && !none.text().contains("<Part>"));
        assert_eq!(call(c, of("DELETE", "k", ""), b"").await.status, 204);
        assert_eq!(
            call(c, of("DELETE", "k", ""), b"").await.code(),
            "NoSuchUpload"
        );
        assert_eq!(server.store.uploads_open(), 0);
        assert!(server.store.object("bucket", "k").is_none());
    });
}

#[test]
fn parts_are_copied_from_objects() {
    with_server(|server| async move {
        server.store.allow_parts_of(1);
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let body = pattern(300_000);
        call(c, Call::new("PUT", "/bucket/source"), &body).await;
        let other = Call::new("PUT", "/others").user("OTHER");
        assert_eq!(call(c, other, b"").await.status, 200);
        let other = Call::new("PUT", "/others/k").user("OTHER");
        assert_eq!(call(c, other, b"theirs").await.status, 200);
        let sha256 = [("x-amz-checksum-algorithm", "SHA256")];
        let id = begin(c, "/bucket/k", &sha256).await;
        let copy = |number: u16, source: &str| {
            part("/bucket/k", &id, number).field("x-amz-copy-source", source)
        };
        let ranged = copy(1, "/bucket/source").field("x-amz-copy-source-range", "bytes=100-199999");
        let first = call(c, ranged, b"").await;
        assert_eq!(first.status, 200, "{}", first.text());
        let slice = &body[100..200_000];
        assert_eq!(
            first.element("ETag"),
            format!("\"{:x}\"", md5::Md5::digest(slice))
        );
        assert_eq!(
            first.element("ChecksumSHA256"),
            checksum(Algorithm::Sha256, slice)
        );
        let second = call(c, copy(2, "bucket/source?versionId=null"), b"").await;
        assert_eq!(second.status, 200, "{}", second.text());
        for (call_, code) in [
            (
                copy(3, "/bucket/source").field("x-amz-copy-source-range", "bytes=0-300000"),
                "InvalidArgument",
            ),
            (
                copy(3, "/bucket/source").field("x-amz-copy-source-range", "bytes=0-"),
                "InvalidArgument",
            ),
            (
                copy(3, "/bucket/source").field("x-amz-copy-source-if-match", "x"),
                "PreconditionFailed",
            ),
            (copy(3, "/bucket/no"), "NoSuchKey"),
            (copy(3, "/others/k").user("OTHER"), "AccessDenied"),
            (copy(0, "/bucket/source"), "InvalidArgument"),
            (
                part("/bucket/other", &id, 3).field("x-amz-copy-source", "/bucket/source"),
                "NoSuchUpload",
            ),
            (
                copy(3, "/bucket/source").field("x-amz-metadata-directive", "COPY"),
                "NotImplemented",
            ),
        ] {
            let shown = format!("{:?}", call_.fields);
            assert_eq!(call(c, call_, b"").await.code(), code, "{shown}");
        }
        // One's own upload opens nobody else's bucket.
        let theirs = Call::new("POST", "/others/k?uploads").user("OTHER");
        let theirs = call(c, theirs, b"").await.element("UploadId");
        let call_ = part("/others/k", &theirs, 1)
            .user("OTHER")
            .field("x-amz-copy-source", "/bucket/source");
        assert_eq!(call(c, call_, b"").await.code(), "AccessDenied");
        let call_ = part("/bucket/k", &theirs, 1).field("x-amz-copy-source", "/bucket/source");
        assert_eq!(call(c, call_, b"").await.code(), "NoSuchUpload");
        server.store.break_after(Some(100_000));
        let broken = call(c, copy(3, "/bucket/source"), b"").await;
        assert_eq!(broken.code(), "InternalError");
        server.store.break_after(None);
        let mut client = Client::connect(&server).await;
        let full = call(&mut client, copy(3, "/bucket/source"), b"not empty").await;
        assert_eq!(full.code(), "UnexpectedContent");

        let text: String = [&first, &second]
            .iter()
            .enumerate()
            .map(|(at, done)| {
                format!(
                    "<Part><PartNumber>{}</PartNumber><ETag>{}</ETag><ChecksumSHA256>{}</ChecksumSHA256></Part>",
                    at + 1,
                    done.element("ETag"),
                    done.element("ChecksumSHA256")
                )
            })
            .collect();
        let text = format!("<CompleteMultipartUpload>{text}</CompleteMultipartUpload>");
        let done = post(c, complete("/bucket/k", &id), &text).await;
        assert_eq!(done.status, 200, "{}", done.text());
        let (_, bytes) = server.store.object("bucket", "k").unwrap();
        assert!(bytes == [slice, &body].concat());
    });
}

#[test]
fn ten_thousand_parts_are_completed() {
    with_server(|server| async move {
        server.store.allow_parts_of(1);
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let id = begin(c, "/bucket/k", &[]).await;
        let mut wire = Vec::new();
        for number in 1..=10_000u16 {
            wire.extend(part("/bucket/k", &id, number).with_body(&number.to_be_bytes()));
            if number % 100 == 0 {
                c.send(&wire).await;
                for _ in 0..100 {
                    assert_eq!(c.reply(false).await.status, 200);
                }
                wire.clear();
            }
        }
        let crc = "A".repeat(44);
        let mut text = "<?xml version=\"1.0\"?>\n<CompleteMultipartUpload>".to_owned();
        for number in 1..=10_000u16 {
            let etag = format!("{:x}", md5::Md5::digest(number.to_be_bytes()));
            // As wide as SDKs write.
            text.push_str(&format!(
                "\n  <Part>\n    <PartNumber>{number}</PartNumber>\n    <ETag>&quot;{etag}&quot;</ETag>\n    <!-- {crc} -->\n  </Part>"
            ));
        }
        text.push_str("</CompleteMultipartUpload>");
        let done = post(c, complete("/bucket/k", &id), &text).await;
        assert_eq!(done.status, 200, "{}", done.text());
        assert!(done.element("ETag").ends_with("-10000\""));
        let (info, bytes) = server.store.object("bucket", "k").unwrap();
        assert_eq!((info.parts.len(), bytes.len()), (10_000, 20_000));
        let get = Call::new("GET", "/bucket/k?partNumber=10000");
        assert_eq!(call(c, get, b"").await.body, 10_000u16.to_be_bytes());
    });
}
