//! Buckets over the wire: listings, deletions by the thousand, configuration, owners, hosts.

use super::*;
use crate::object::{ObjectHeaders, ObjectStore};
use crate::s3::names::KEY_SIZE_MAX;
use crate::s3::route::served_operations;
use crate::s3::xml::{Element, tree};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

const MODEL: &str = include_str!("../../../tests/s3-model/operations.tsv");

/// Keys that markup, line ends, escapes or XML 1.0 itself would spoil.
const HOSTILE: [&str; 9] = [
    "<k>&amp;\"'",
    "]]>",
    "a+b c%20",
    "line\nend\r\tx",
    "\u{1}\u{8}\u{1f}",
    "\u{7f}\u{85}\u{2028}",
    "\u{fffe}\u{ffff}",
    " spaces ",
    "\u{1f600}/é",
];

type Leaves = Vec<(String, String)>;

/// Paths and texts of the answer's elements that have no children.
fn leaves(bytes: &[u8], root: &str) -> Leaves {
    fn collect(element: Element, path: &str, found: &mut Leaves) {
        for child in element.children {
            let path = format!("{path}{}", child.name);
            if child.children.is_empty() {
                found.push((path, child.text));
            } else {
                collect(child, &format!("{path}/"), found);
            }
        }
    }
    let mut found = Vec::new();
    let root = tree(bytes, root, 20_000);
    let root = root.unwrap_or_else(|_| {
        panic!(
            "{}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(999)])
        )
    });
    collect(root, "", &mut found);
    found
}

fn all<'a>(found: &'a Leaves, name: &str) -> Vec<&'a str> {
    let named = found.iter().filter(|(path, _)| path == name);
    named.map(|(_, text)| text.as_str()).collect()
}

fn one<'a>(found: &'a Leaves, name: &str) -> Option<&'a str> {
    all(found, name).first().copied()
}

fn escape(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, crate::http::target::ENCODED).to_string()
}

async fn get(client: &mut Client, target: &str) -> Reply {
    call(client, Call::new("GET", target), b"").await
}

async fn listed(client: &mut Client, target: &str, root: &str) -> Leaves {
    let reply = get(client, target).await;
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
    leaves(&reply.body, root)
}

async fn put(client: &mut Client, target: &str, body: &[u8]) {
    let reply = call(client, Call::new("PUT", target), body).await;
    assert_eq!(reply.status, 200, "{target}: {}", reply.text());
}

fn delete_document(keys: &[&str], quiet: bool) -> String {
    let mut document = crate::s3::xml::Document::new("Delete");
    for key in keys {
        document.open("Object").leaf("Key", key).close("Object");
    }
    document.leaf("Quiet", if quiet { "true" } else { "false" });
    String::from_utf8(document.finish("Delete")).unwrap()
}

fn delete_call(target: &str, document: &str) -> Call {
    let md5 = BASE64.encode(md5::Md5::digest(document));
    Call::new("POST", target).field("Content-MD5", md5)
}

async fn delete(client: &mut Client, document: &str) -> Leaves {
    let reply = call(
        client,
        delete_call("/bucket?delete", document),
        document.as_bytes(),
    )
    .await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    leaves(&reply.body, "DeleteResult")
}

#[test]
fn every_shape_of_a_listing_has_every_key_once() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        let mut keys: Vec<String> = HOSTILE.map(str::to_owned).to_vec();
        keys.extend((0..7).map(|n| format!("d/{n}")));
        keys.extend(["a", "a/b", "a/b/c", "z"].map(str::to_owned));
        keys.sort();
        for key in &keys {
            put(c, &format!("/bucket/{}", escape(key)), key.as_bytes()).await;
        }
        // (query, root, element, where the next page begins and what asks for it)
        type Next = &'static [(&'static str, &'static str)];
        let shapes: [(&str, &str, &str, Next); 3] = [
            (
                "",
                "ListBucketResult",
                "Contents",
                &[("NextMarker", "marker")],
            ),
            (
                "list-type=2",
                "ListBucketResult",
                "Contents",
                &[("NextContinuationToken", "continuation-token")],
            ),
            (
                "versions",
                "ListVersionsResult",
                "Version",
                &[
                    ("NextKeyMarker", "key-marker"),
                    ("NextVersionIdMarker", "version-id-marker"),
                ],
            ),
        ];
        for (query, root, element, next) in shapes {
            for delimiter in ["", "/"] {
                for max in [1, 2, 3, 19, 20, 21, 1000] {
                    for encoding in ["", "url"] {
                        let (mut found, mut prefixes) = (Vec::new(), Vec::new());
                        let mut more = String::new();
                        loop {
                            let target = format!(
                                "/bucket?{query}&delimiter={delimiter}&max-keys={max}&encoding-type={encoding}{more}"
                            );
                            let page = listed(c, &target, root).await;
                            let decode = |text: &str| match encoding {
                                "url" => String::from_utf8(
                                    crate::http::target::decode(
                                        text.as_bytes(),
                                        crate::http::target::Plus::Literal,
                                    )
                                    .unwrap()
                                    .into_owned(),
                                )
                                .unwrap(),
                                _ => text.to_owned(),
                            };
                            let keys = all(&page, &format!("{element}/Key"));
                            let folders = all(&page, "CommonPrefixes/Prefix");
                            assert!(keys.len() + folders.len() <= max, "{target}");
                            found.extend(keys.iter().map(|key| decode(key)));
                            prefixes.extend(folders.iter().map(|name| decode(name)));
                            if one(&page, "IsTruncated") != Some("true") {
                                for (element, _) in next {
                                    assert_eq!(one(&page, element), None, "{target}");
                                }
                                break;
                            }
                            assert_eq!(keys.len() + folders.len(), max, "{target}");
                            more = String::new();
                            for (element, parameter) in next {
                                if let Some(value) = one(&page, element) {
                                    let value = match *element {
                                        "NextMarker" | "NextKeyMarker" => decode(value),
                                        _ => value.to_owned(),
                                    };
                                    more += &format!("&{parameter}={}", escape(&value));
                                }
                            }
                            if query.is_empty() && delimiter.is_empty() {
                                assert_eq!(more, "", "a NextMarker without a delimiter");
                                more = format!("&marker={}", escape(found.last().unwrap()));
                            }
                            assert_ne!(more, "", "{target}");
                        }
                        let mut expected = keys.clone();
                        let mut folders = Vec::new();
                        if delimiter == "/" {
                            expected.retain(|key| !key.contains('/'));
                            folders = vec!["a/".to_owned(), "d/".into(), "\u{1f600}/".into()];
                        }
                        assert_eq!((&found, &prefixes), (&expected, &folders), "{query} {max}");
                    }
                }
            }
        }
        let versions = listed(c, "/bucket?versions&prefix=a", "ListVersionsResult").await;
        assert_eq!(one(&versions, "Version/VersionId"), Some("null"));
        assert_eq!(one(&versions, "Version/IsLatest"), Some("true"));
        assert_eq!(one(&versions, "Version/Owner/ID"), Some("root-id"));
        let v1 = listed(c, "/bucket?prefix=a", "ListBucketResult").await;
        assert_eq!(one(&v1, "Contents/Owner/DisplayName"), Some("root"));
        let v2 = listed(c, "/bucket?list-type=2&prefix=a", "ListBucketResult").await;
        assert_eq!(one(&v2, "Contents/Owner/ID"), None);
        assert_eq!(one(&v2, "KeyCount"), Some("4"));
    });
}

#[test]
fn bounds_of_a_page_hold_on_both_sides() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        for n in 0..1001 {
            put(c, &format!("/bucket/{n:04}"), b"").await;
        }
        for (query, root, element, max) in [
            ("", "ListBucketResult", "Contents/Key", "max-keys"),
            (
                "list-type=2",
                "ListBucketResult",
                "Contents/Key",
                "max-keys",
            ),
            ("versions", "ListVersionsResult", "Version/Key", "max-keys"),
            (
                "uploads",
                "ListMultipartUploadsResult",
                "Upload/Key",
                "max-uploads",
            ),
        ] {
            let stored = if max == "max-uploads" { 0 } else { 1001 };
            for (asked, granted) in [
                ("", 1000),
                ("0", 0),
                ("1", 1),
                ("999", 999),
                ("1000", 1000),
                ("1001", 1000),
                ("2147483647", 1000),
            ] {
                let target = format!("/bucket?{query}&{max}={asked}");
                let page = listed(c, &target, root).await;
                assert_eq!(all(&page, element).len(), granted.min(stored), "{target}");
                let truncated = granted > 0 && stored > granted;
                let expected = Some(if truncated { "true" } else { "false" });
                assert_eq!(one(&page, "IsTruncated"), expected, "{target}");
            }
            for asked in ["-1", "2147483648", "1e3", "abc", "%00"] {
                let target = format!("/bucket?{query}&{max}={asked}");
                let reply = get(c, &target).await;
                assert_eq!(
                    (reply.status, reply.code()),
                    (400, "InvalidArgument".into()),
                    "{target}"
                );
            }
        }
        for target in [
            "/bucket?versions&version-id-marker=null",
            "/bucket?versions&key-marker=a&version-id-marker=",
            "/bucket?versions&key-marker=a&version-id-marker=abc",
            "/bucket?uploads&key-marker=a&upload-id-marker=abc",
            "/bucket?encoding-type=xml",
            "/bucket?list-type=2&continuation-token=a",
            "/bucket?prefix=%ff",
        ] {
            let reply = get(c, target).await;
            assert_eq!(
                (reply.status, reply.code()),
                (400, "InvalidArgument".into()),
                "{target}"
            );
        }
        for target in [
            "/bucket?versions&marker=a",
            "/bucket?uploads&max-keys=1",
            "/bucket?foo",
        ] {
            assert_eq!(get(c, target).await.code(), "NotImplemented", "{target}");
        }
        // With a token, start-after has no say; a key behind all keys lists nothing.
        let page = listed(c, "/bucket?list-type=2&max-keys=2", "ListBucketResult").await;
        let token = one(&page, "NextContinuationToken").unwrap();
        let target =
            format!("/bucket?list-type=2&max-keys=1&start-after=0500&continuation-token={token}");
        let page = listed(c, &target, "ListBucketResult").await;
        assert_eq!(one(&page, "Contents/Key"), Some("0002"));
        assert_eq!(one(&page, "StartAfter"), Some("0500"));
        let page = listed(
            c,
            "/bucket?list-type=2&start-after=0999&fetch-owner=true",
            "ListBucketResult",
        )
        .await;
        assert_eq!(all(&page, "Contents/Key"), ["1000"]);
        assert_eq!(all(&page, "Contents/Owner/ID"), ["root-id"]);
        for (asked, status) in [
            ("RestoreStatus", 200),
            ("RestoreStatus, Owner", 400),
            ("", 400),
        ] {
            for target in [
                "/bucket?max-keys=1",
                "/bucket?list-type=2",
                "/bucket?versions",
            ] {
                let list =
                    Call::new("GET", target).field("x-amz-optional-object-attributes", asked);
                assert_eq!(call(c, list, b"").await.status, status, "{target} {asked}");
            }
        }
        let long = "9".repeat(KEY_SIZE_MAX + 1);
        let page = listed(c, &format!("/bucket?marker={long}"), "ListBucketResult").await;
        assert_eq!(all(&page, "Contents/Key").len(), 0);
    });
}

#[test]
fn uploads_are_listed_in_pages() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        let keys = ["a<&", "d/1", "d/2", "k", "k", "k", "l\u{1}"];
        let bucket = server.store.bucket("bucket").await.unwrap();
        let headers = ObjectHeaders {
            owner: "root-id".to_owned(),
            ..ObjectHeaders::default()
        };
        let mut ids = Vec::new();
        for key in keys {
            let (key, headers) = (key.as_bytes(), headers.clone());
            let id = server.store.create_upload(&bucket, key, headers, None);
            ids.push(id.await.unwrap().to_string());
        }
        for max in 1..9 {
            let (mut found, mut more) = (Vec::new(), String::new());
            loop {
                let target = format!(
                    "/bucket?uploads&delimiter=/&encoding-type=url&max-uploads={max}{more}"
                );
                let page = listed(c, &target, "ListMultipartUploadsResult").await;
                assert_eq!(one(&page, "Bucket"), Some("bucket"));
                for (path, text) in &page {
                    if path == "Upload/Key" || path == "CommonPrefixes/Prefix" {
                        found.push(text.clone());
                    }
                }
                if one(&page, "IsTruncated") == Some("false") {
                    break;
                }
                more = format!("&key-marker={}", one(&page, "NextKeyMarker").unwrap());
                if let Some(id) = one(&page, "NextUploadIdMarker") {
                    more += &format!("&upload-id-marker={id}");
                }
            }
            assert_eq!(found, ["a%3C%26", "d/", "k", "k", "k", "l%01"], "by {max}");
        }
        let target = format!(
            "/bucket?uploads&prefix=k&key-marker=k&upload-id-marker={}",
            ids[3]
        );
        let page = listed(c, &target, "ListMultipartUploadsResult").await;
        assert_eq!(all(&page, "Upload/UploadId"), ids[4..6]);
        assert_eq!(one(&page, "Upload/Initiator/ID"), Some("root-id"));
        assert_eq!(one(&page, "Upload/Owner/ID"), Some("root-id"));
        assert_eq!(one(&page, "Upload/StorageClass"), Some("STANDARD"));
        // Without an upload, all of the key's are passed.
        let page = listed(
            c,
            "/bucket?uploads&key-marker=k",
            "ListMultipartUploadsResult",
        )
        .await;
        assert_eq!(all(&page, "Upload/Key"), ["l\u{1}"]);
    });
}

#[test]
fn objects_are_deleted_by_the_thousand() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        let keys: Vec<String> = (0..1001).map(|n| format!("k{n:04}")).collect();
        for key in &keys {
            put(c, &format!("/bucket/{key}"), b"").await;
        }
        let names: Vec<&str> = keys.iter().map(String::as_str).collect();
        let too_many = delete_document(&names, true);
        let reply = call(
            c,
            delete_call("/bucket?delete", &too_many),
            too_many.as_bytes(),
        )
        .await;
        assert_eq!(
            (reply.status, reply.code()),
            (400, "MalformedXML".to_owned())
        );
        assert!(server.store.object("bucket", "k0000").is_some());
        let found = delete(c, &delete_document(&names[..1000], false)).await;
        assert_eq!(all(&found, "Deleted/Key"), names[..1000]);
        let at_once = server.store.deletes_at_once();
        assert!((2..=64).contains(&at_once), "{at_once} at once");
        let page = listed(c, "/bucket", "ListBucketResult").await;
        assert_eq!(all(&page, "Contents/Key"), ["k1000"]);
        // Nothing that was there, and nothing to say about it.
        assert_eq!(delete(c, &delete_document(&names[..2], true)).await, []);
    });
}

#[test]
fn each_deletion_has_its_own_answer() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        for key in HOSTILE {
            put(c, &format!("/bucket/{}", escape(key)), b"x").await;
        }
        let found = delete(c, &delete_document(&HOSTILE, false)).await;
        assert_eq!(all(&found, "Deleted/Key"), HOSTILE);
        let page = listed(c, "/bucket", "ListBucketResult").await;
        assert_eq!(all(&page, "Contents/Key").len(), 0);

        for key in [
            "plain", "null", "version", "match", "other", "twice", "left",
        ] {
            put(c, &format!("/bucket/{key}"), b"hello").await;
        }
        let etag = "5d41402abc4b2a76b9719d911017c592";
        let long = "l".repeat(KEY_SIZE_MAX + 1);
        let object = |rest: &str| format!("<Object>{rest}</Object>");
        let document = format!(
            "<Delete>{}</Delete>",
            [
                "<Key>plain</Key>".to_owned(),
                "<VersionId>null</VersionId><Key>null</Key>".to_owned(),
                "<Key>version</Key><VersionId>L4kqtJlcpXroDTDmpUMLUo</VersionId>".to_owned(),
                format!("<Key>match</Key><ETag>\"{etag}\"</ETag>"),
                format!("<Key>other</Key><ETag>{}</ETag>", "0".repeat(32)),
                "<Key>other</Key><ETag>nonsense</ETag>".to_owned(),
                "<Key>absent</Key>".to_owned(),
                "<Key>absent</Key><ETag>*</ETag>".to_owned(),
                format!("<Key>twice</Key><ETag>{etag}</ETag>"),
                format!("<Key>twice</Key><ETag>{etag}</ETag>"),
                format!("<Key>{long}</Key>"),
            ]
            .map(|rest| object(&rest))
            .concat()
        );
        let found = delete(c, &document).await;
        let deleted = ["plain", "null", "match", "absent", "twice", "twice"];
        assert_eq!(all(&found, "Deleted/Key"), deleted);
        assert_eq!(all(&found, "Deleted/VersionId"), ["null"]);
        let refused: Vec<_> = all(&found, "Error/Key")
            .into_iter()
            .zip(all(&found, "Error/Code"))
            .collect();
        let expected = [
            ("version", "NoSuchVersion"),
            ("other", "PreconditionFailed"),
            ("other", "PreconditionFailed"),
            ("absent", "NoSuchKey"),
            (&long[..], "KeyTooLongError"),
        ];
        assert_eq!(refused, expected);
        let page = listed(c, "/bucket", "ListBucketResult").await;
        assert_eq!(all(&page, "Contents/Key"), ["left", "other", "version"]);
        // Quiet hides what went well, and only that.
        let quiet = document.replace("<Delete>", "<Delete><Quiet>true</Quiet>");
        let found = delete(c, &quiet).await;
        assert_eq!(all(&found, "Deleted/Key").len(), 0);
        assert!(all(&found, "Error/Key").contains(&"version"));
    });
}

#[test]
fn deletions_whose_body_is_in_doubt_delete_nothing() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        put(c, "/bucket/k", b"hello").await;
        let document = delete_document(&["k"], false);
        let target = "/bucket?delete";
        let crc = |text: &str| {
            let mut hasher = Hasher::new(Algorithm::Crc32);
            hasher.update(text.as_bytes());
            hasher.finish().base64()
        };
        let right = || delete_call(target, &document);
        let other = delete_document(&["other"], false);
        for (wrong, body, code) in [
            (Call::new("POST", target), &document, "InvalidRequest"),
            (delete_call(target, &other), &document, "BadDigest"),
            (
                Call::new("POST", target).field("x-amz-checksum-crc32", crc(&other)),
                &document,
                "BadDigest",
            ),
            (right().user("OTHER"), &document, "AccessDenied"),
            (
                right().field("x-amz-expected-bucket-owner", "other-id"),
                &document,
                "AccessDenied",
            ),
            (
                right().field("x-amz-mfa", "1 2"),
                &document,
                "NotImplemented",
            ),
            (
                right().field("If-Match", "\"x\""),
                &document,
                "NotImplemented",
            ),
            (
                delete_call("/nothing?delete", &document),
                &document,
                "NoSuchBucket",
            ),
            (
                delete_call("/bucket?delete&uploads", &document),
                &document,
                "NotImplemented",
            ),
            (
                delete_call("/bucket/k?delete", &document),
                &document,
                "NotImplemented",
            ),
            (
                delete_call(target, "<Delete/>"),
                &"<Delete/>".to_owned(),
                "MalformedXML",
            ),
        ] {
            let mut client = Client::connect(&server).await;
            let reply = call(&mut client, wrong, body.as_bytes()).await;
            assert_eq!(reply.code(), code, "{}", reply.text());
            assert!(server.store.object("bucket", "k").is_some(), "{code}");
        }
        let empty = call(c, delete_call(target, ""), b"").await;
        assert_eq!(empty.code(), "MalformedXML");
        // The bound on the document itself, from both sides: comments are padding.
        let limit = crate::s3::operations::DELETE_DOCUMENT_SIZE_MAX as usize;
        for (size, code) in [(limit + 1, "MaxMessageLengthExceeded"), (limit, "")] {
            let padding = size - document.len() - "<!---->".len();
            let padded = document.replace(
                "</Delete>",
                &format!("<!--{}--></Delete>", " ".repeat(padding)),
            );
            assert_eq!(padded.len(), size);
            let mut client = Client::connect(&server).await;
            let reply = call(&mut client, delete_call(target, &padded), padded.as_bytes()).await;
            assert_eq!(reply.code(), code, "{}", reply.text());
        }
        assert!(server.store.object("bucket", "k").is_none());
        put(c, "/bucket/k", b"hello").await;
        let by_crc = Call::new("POST", target).field("x-amz-checksum-crc32", crc(&document));
        assert_eq!(call(c, by_crc, document.as_bytes()).await.status, 200);
        assert!(server.store.object("bucket", "k").is_none());
    });
}

#[test]
fn large_documents_that_do_not_come_hold_up_nobody() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        put(c, "/bucket/k", b"hello").await;
        let document = delete_document(&["k"], false);
        let size = crate::s3::operations::DELETE_DOCUMENT_SIZE_MAX;
        let announced = || {
            delete_call("/bucket?delete", &document)
                .field("Content-Length", size)
                .field("Expect", "100-continue")
        };
        let mut slow = Vec::new();
        for _ in 0..5 {
            let mut client = Client::connect(&server).await;
            client.send(&announced().head()).await;
            assert_eq!(client.reply(false).await.status, 100);
            slow.push(client);
        }
        let mut late = Client::connect(&server).await;
        late.send(&announced().head()).await;
        let refused = late.reply(false).await;
        assert_eq!(
            (refused.status, refused.code()),
            (503, "SlowDown".to_owned())
        );
        // A small document needs no room.
        assert_eq!(all(&delete(c, &document).await, "Deleted/Key"), ["k"]);
        // Who is gone leaves it to others.
        drop(slow.pop());
        let freed = async {
            loop {
                let mut client = Client::connect(&server).await;
                client.send(&announced().head()).await;
                if client.reply(false).await.status == 100 {
                    break;
                }
            }
        };
        assert!(timeout(Duration::from_secs(10), freed).await.is_ok());
    });
}

#[test]
fn what_was_never_set_reads_as_on_aws() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        put(c, "/bucket/k", b"hello").await;
        let set = [
            (
                "/bucket?versioning",
                "<VersioningConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></VersioningConfiguration>",
            ),
            ("/bucket?accelerate", "</AccelerateConfiguration>"),
            ("/bucket?logging", "</BucketLoggingStatus>"),
            ("/bucket?notification", "</NotificationConfiguration>"),
            ("/bucket?requestPayment", "<Payer>BucketOwner</Payer>"),
            (
                "/bucket?ownershipControls",
                "<Rule><ObjectOwnership>BucketOwnerEnforced</ObjectOwnership></Rule>",
            ),
            ("/bucket?abac", "<Status>Disabled</Status>"),
            ("/bucket?analytics", "<IsTruncated>false</IsTruncated>"),
            ("/bucket?inventory", "<IsTruncated>false</IsTruncated>"),
            ("/bucket?metrics", "<IsTruncated>false</IsTruncated>"),
            (
                "/bucket?intelligent-tiering",
                "<IsTruncated>false</IsTruncated>",
            ),
            ("/bucket?location", "</LocationConstraint>"),
            ("/bucket/k?tagging", "<TagSet></TagSet>"),
        ];
        for (target, part) in set {
            let reply = get(c, target).await;
            assert!(
                reply.status == 200 && reply.text().contains(part),
                "{target}: {}",
                reply.text()
            );
        }
        for target in [
            "/bucket?acl",
            "/bucket/k?acl",
            "/bucket/k?acl&versionId=null",
        ] {
            let reply = get(c, target).await;
            let found = leaves(&reply.body, "AccessControlPolicy");
            assert_eq!(one(&found, "Owner/ID"), Some("root-id"), "{target}");
            let grant = "AccessControlList/Grant";
            assert_eq!(all(&found, &format!("{grant}/Grantee/ID")), ["root-id"]);
            assert_eq!(
                all(&found, &format!("{grant}/Permission")),
                ["FULL_CONTROL"]
            );
            assert!(reply.text().contains("xsi:type=\"CanonicalUser\""));
        }
        let unset = [
            ("/bucket?policy", 404, "NoSuchBucketPolicy"),
            ("/bucket?policyStatus", 404, "NoSuchBucketPolicy"),
            ("/bucket?lifecycle", 404, "NoSuchLifecycleConfiguration"),
            ("/bucket?cors", 404, "NoSuchCORSConfiguration"),
            ("/bucket?tagging", 404, "NoSuchTagSet"),
            ("/bucket?website", 404, "NoSuchWebsiteConfiguration"),
            (
                "/bucket?encryption",
                404,
                "ServerSideEncryptionConfigurationNotFoundError",
            ),
            (
                "/bucket?replication",
                404,
                "ReplicationConfigurationNotFoundError",
            ),
            (
                "/bucket?object-lock",
                404,
                "ObjectLockConfigurationNotFoundError",
            ),
            (
                "/bucket?publicAccessBlock",
                404,
                "NoSuchPublicAccessBlockConfiguration",
            ),
            ("/bucket?analytics&id=a", 404, "NoSuchConfiguration"),
            ("/bucket?inventory&id=a", 404, "NoSuchConfiguration"),
            ("/bucket?metrics&id=a", 404, "NoSuchConfiguration"),
            (
                "/bucket?intelligent-tiering&id=a",
                404,
                "NoSuchConfiguration",
            ),
            ("/bucket/k?retention", 400, "InvalidRequest"),
            ("/bucket/k?legal-hold", 400, "InvalidRequest"),
            ("/bucket/none?acl", 404, "NoSuchKey"),
            ("/bucket/none?tagging", 404, "NoSuchKey"),
            ("/bucket/none?retention", 404, "NoSuchKey"),
            ("/bucket/none?legal-hold", 404, "NoSuchKey"),
            ("/bucket/k?acl&versionId=abc", 501, "NotImplemented"),
            ("/bucket?acl&policy", 501, "NotImplemented"),
            ("/nothing?acl", 404, "NoSuchBucket"),
            ("/nothing?policy", 404, "NoSuchBucket"),
        ];
        for (target, status, code) in unset {
            let reply = get(c, target).await;
            assert_eq!(
                (reply.status, reply.code()),
                (status, code.to_owned()),
                "{target}"
            );
        }
        assert!(
            get(c, "/bucket/k?retention")
                .await
                .text()
                .contains("Bucket is missing Object Lock Configuration")
        );
    });
}

#[test]
fn configuration_is_not_taken_and_what_is_not_set_may_go() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        put(c, "/bucket/k", b"hello").await;
        for target in [
            "/bucket?versioning",
            "/bucket?policy",
            "/bucket?lifecycle",
            "/bucket?cors",
            "/bucket?tagging",
            "/bucket?website",
            "/bucket?encryption",
            "/bucket?replication",
            "/bucket?object-lock",
            "/bucket?publicAccessBlock",
            "/bucket?ownershipControls",
            "/bucket?accelerate",
            "/bucket?requestPayment",
            "/bucket?logging",
            "/bucket?notification",
            "/bucket?analytics&id=a",
            "/bucket?acl",
            "/bucket/k?acl",
            "/bucket/k?tagging",
            "/bucket/k?retention",
            "/bucket/k?legal-hold",
        ] {
            for body in [&b"<A><Status>Suspended</Status></A>"[..], b""] {
                let reply = call(c, Call::new("PUT", target), body).await;
                assert_eq!(
                    (reply.status, reply.code()),
                    (501, "NotImplemented".into()),
                    "{target}"
                );
            }
        }
        for target in ["/bucket?acl", "/bucket/k?acl"] {
            let acl = |value: &str| Call::new("PUT", target).field("x-amz-acl", value);
            assert_eq!(call(c, acl("private"), b"").await.status, 200);
            for (value, body) in [("public-read", &b""[..]), ("private", b"<A/>"), ("", b"")] {
                let reply = call(c, acl(value), body).await;
                assert_eq!(reply.code(), "NotImplemented", "{target} {value}");
            }
            let grant = acl("private").field("x-amz-grant-read", "id=other-id");
            assert_eq!(call(c, grant, b"").await.code(), "NotImplemented");
            let denied = call(c, acl("private").user("OTHER"), b"").await;
            assert_eq!(denied.code(), "AccessDenied");
        }
        let missing = Call::new("PUT", "/bucket/none?acl").field("x-amz-acl", "private");
        assert_eq!(call(c, missing, b"").await.code(), "NoSuchKey");
        for target in [
            "/bucket?policy",
            "/bucket?lifecycle",
            "/bucket?cors",
            "/bucket?tagging",
            "/bucket?website",
            "/bucket?encryption",
            "/bucket?replication",
            "/bucket?publicAccessBlock",
            "/bucket/k?tagging",
        ] {
            assert_eq!(
                call(c, Call::new("DELETE", target), b"").await.status,
                204,
                "{target}"
            );
            let denied = call(c, Call::new("DELETE", target).user("OTHER"), b"").await;
            assert_eq!(denied.code(), "AccessDenied", "{target}");
        }
        for target in [
            "/bucket?analytics&id=a",
            "/bucket?metrics&id=a",
            "/bucket?inventory&id=a",
        ] {
            let reply = call(c, Call::new("DELETE", target), b"").await;
            assert_eq!(
                (reply.status, reply.code()),
                (404, "NoSuchConfiguration".into()),
                "{target}"
            );
        }
        for target in [
            "/bucket?ownershipControls",
            "/bucket?versioning",
            "/bucket?acl",
        ] {
            let reply = call(c, Call::new("DELETE", target), b"").await;
            assert_eq!(reply.code(), "NotImplemented", "{target}");
        }
        assert_eq!(server.store.object("bucket", "k").unwrap().1, b"hello");
    });
}

/// Method, target and whether a source is named, as the model has it, on `/bucket` and `/bucket/k`.
fn call_of(line: &str) -> (&str, Call) {
    let columns: Vec<&str> = line.split('\t').collect();
    let [name, method, uri, members, headers] = columns[..] else {
        panic!("{line:?}");
    };
    let method = ["GET", "HEAD", "PUT", "POST", "DELETE"]
        .into_iter()
        .find(|known| *known == method)
        .expect("a method");
    let mut target = uri.replace("{Bucket}", "bucket").replace("{Key+}", "k");
    for member in members.split(',') {
        let value = match member {
            "uploadId" => "0".repeat(32),
            "partNumber" if name.starts_with("UploadPart") => "1".to_owned(),
            "id" => "a".to_owned(),
            _ => continue,
        };
        target += if target.contains('?') { "&" } else { "?" };
        target += &format!("{member}={value}");
    }
    if name == "ListObjectsV2" {
        assert!(target.contains("list-type=2"));
    }
    let call = Call::new(method, &target);
    // Without these they would be another operation, or none.
    let call = headers.split(',').fold(call, |call, header| match header {
        "x-amz-copy-source" => call.field(header, "/bucket/k"),
        "x-amz-object-attributes" => call.field(header, "ETag"),
        _ => call,
    });
    (name, call)
}

#[test]
fn every_operation_on_a_bucket_asks_who_owns_it() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        put(c, "/bucket/k", b"hello").await;
        let mut asked = 0;
        for line in MODEL.lines().filter(|line| !line.starts_with('#')) {
            let (name, _) = call_of(line);
            if !served_operations().any(|(served, _)| served == name)
                || matches!(name, "ListBuckets" | "CreateBucket")
            {
                continue;
            }
            let has_header = line.contains("x-amz-expected-bucket-owner");
            assert!(has_header, "{name} does not have the header in the model");
            let call_of = || call_of(line).1;
            for denied in [
                call_of().field("x-amz-expected-bucket-owner", "other-id"),
                call_of().field("x-amz-expected-bucket-owner", ""),
                call_of().user("OTHER"),
                call_of()
                    .user("OTHER")
                    .field("x-amz-expected-bucket-owner", "root-id"),
                call_of()
                    .user("OTHER")
                    .field("x-amz-expected-bucket-owner", "other-id"),
            ] {
                let is_head = denied.method == "HEAD";
                let reply = call(c, denied, b"").await;
                assert_eq!(reply.status, 403, "{name}: {}", reply.text());
                assert!(is_head || reply.code() == "AccessDenied", "{name}");
                assert_eq!(
                    reply.header("x-amz-bucket-region"),
                    Some("us-east-1"),
                    "{name}"
                );
            }
            // What does not exist is no secret, and what exists in it is none of theirs.
            let mut elsewhere = call_of().user("OTHER");
            elsewhere.target = elsewhere.target.replacen("/bucket", "/nothing", 1);
            let is_head = elsewhere.method == "HEAD";
            let reply = call(c, elsewhere, b"").await;
            assert_eq!(reply.status, 404, "{name}: {}", reply.text());
            assert!(is_head || reply.code() == "NoSuchBucket", "{name}");
            let mut absent = call_of().user("OTHER");
            absent.target = absent.target.replacen("/bucket/k", "/bucket/absent", 1);
            assert_eq!(call(c, absent, b"").await.status, 403, "{name}");
            assert_eq!(
                server.store.object("bucket", "k").unwrap().1,
                b"hello",
                "{name}"
            );
            asked += 1;
        }
        assert!(asked > 50, "{asked}");
        let right = Call::new("GET", "/bucket/k").field("x-amz-expected-bucket-owner", "root-id");
        assert_eq!(call(c, right, b"").await.status, 200);
    });
}

#[test]
fn buckets_are_made_within_the_rules() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        for name in [
            "abc".to_owned(),
            "a".repeat(63),
            "a.b-c".into(),
            "1.2.3".into(),
        ] {
            put(c, &format!("/{name}"), b"").await;
        }
        for name in [
            "ab",
            &"a".repeat(64),
            "Abc",
            "a_b",
            "a..b",
            "-ab",
            "ab-",
            "1.2.3.4",
            "xn--a",
            "a-s3alias",
            "ab-an",
            "minio",
            "_ostrakon",
            "a%20b",
            "%E2%82%AC",
        ] {
            for method in ["PUT", "HEAD", "DELETE"] {
                let reply = call(c, Call::new(method, &format!("/{name}")), b"").await;
                let code = if method == "HEAD" {
                    ""
                } else {
                    "InvalidBucketName"
                };
                assert_eq!(
                    (reply.status, reply.code()),
                    (400, code.into()),
                    "{method} {name}"
                );
            }
        }
        let make = || Call::new("PUT", "/made");
        let body =
            |inner: &str| format!("<CreateBucketConfiguration>{inner}</CreateBucketConfiguration>");
        for (refused, document, code) in [
            (
                make().field("x-amz-acl", "public-read"),
                String::new(),
                "NotImplemented",
            ),
            (
                make().field("x-amz-acl", "authenticated-read"),
                String::new(),
                "NotImplemented",
            ),
            (
                make().field("x-amz-grant-read", "id=a"),
                String::new(),
                "NotImplemented",
            ),
            (
                make().field("x-amz-object-ownership", "ObjectWriter"),
                String::new(),
                "NotImplemented",
            ),
            (
                make().field("x-amz-bucket-object-lock-enabled", "true"),
                String::new(),
                "NotImplemented",
            ),
            (
                make().field("x-amz-bucket-namespace", "account-regional"),
                String::new(),
                "NotImplemented",
            ),
            (
                make().field("x-amz-expected-bucket-owner", "root-id"),
                String::new(),
                "NotImplemented",
            ),
            (
                make(),
                body("<Tags><Tag><Key>a</Key><Value>b</Value></Tag></Tags>"),
                "NotImplemented",
            ),
            (
                make(),
                body("<Location><Name>a</Name></Location>"),
                "NotImplemented",
            ),
            (
                make(),
                body("<Bucket><Type>Directory</Type></Bucket>"),
                "NotImplemented",
            ),
            (
                make(),
                body("<LocationConstraint>eu-west-1</LocationConstraint>"),
                "IllegalLocationConstraintException",
            ),
            (make(), body("<LocationConstraint>"), "MalformedXML"),
            (make(), "<Other/>".to_owned(), "MalformedXML"),
        ] {
            let reply = call(c, refused, document.as_bytes()).await;
            assert_eq!(reply.code(), code, "{document}: {}", reply.text());
        }
        assert_eq!(call(c, Call::new("HEAD", "/made"), b"").await.status, 404);
        let fine = make()
            .field("x-amz-acl", "private")
            .field("x-amz-object-ownership", "BucketOwnerEnforced")
            .field("x-amz-bucket-object-lock-enabled", "false");
        assert_eq!(call(c, fine, body("").as_bytes()).await.status, 200);
        // Again by its owner, which changes nothing; by somebody else, which is refused.
        put(c, "/made/k", b"kept").await;
        put(c, "/made", b"").await;
        assert_eq!(server.store.object("made", "k").unwrap().1, b"kept");
        let taken = call(c, make().user("OTHER"), b"").await;
        assert_eq!(
            (taken.status, taken.code()),
            (409, "BucketAlreadyExists".into())
        );
    });
}

#[test]
fn another_region_says_so() {
    with_region("eu-central-2", |server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        let here = |method, target: &str| Call::new(method, target).region("eu-central-2");
        assert_eq!(call(c, here("PUT", "/bucket"), b"").await.status, 200);
        let again = call(c, here("PUT", "/bucket"), b"").await;
        assert_eq!(
            (again.status, again.code()),
            (409, "BucketAlreadyOwnedByYou".into())
        );
        let location = call(c, here("GET", "/bucket?location"), b"").await;
        assert!(
            location
                .text()
                .contains(">eu-central-2</LocationConstraint>"),
            "{}",
            location.text()
        );
        let head = call(c, here("HEAD", "/bucket"), b"").await;
        assert_eq!(head.header("x-amz-bucket-region"), Some("eu-central-2"));
        let list = call(c, here("GET", "/bucket"), b"").await;
        assert_eq!(list.header("x-amz-bucket-region"), Some("eu-central-2"));
        for (method, target) in [
            ("GET", "/bucket/k"),
            ("GET", "/"),
            ("PUT", "/bucket/k"),
            ("HEAD", "/bucket"),
        ] {
            let reply = call(c, Call::new(method, target), b"").await;
            assert_eq!(reply.status, 400);
            assert_eq!(
                reply.header("x-amz-bucket-region"),
                Some("eu-central-2"),
                "{target}"
            );
            if method != "HEAD" {
                assert_eq!(reply.code(), "AuthorizationHeaderMalformed");
                assert!(reply.text().contains("<Region>eu-central-2</Region>"));
            }
        }
        let elsewhere = "<CreateBucketConfiguration><LocationConstraint>us-east-1</LocationConstraint></CreateBucketConfiguration>";
        let reply = call(c, here("PUT", "/other"), elsewhere.as_bytes()).await;
        assert_eq!(reply.code(), "IllegalLocationConstraintException");
        let same = elsewhere.replace("us-east-1", "eu-central-2");
        assert_eq!(
            call(c, here("PUT", "/other"), same.as_bytes()).await.status,
            200
        );
    });
}

#[test]
fn hosts_and_paths_name_the_same_buckets() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        for bucket in ["bucket", "with.dots"] {
            put(c, &format!("/{bucket}"), b"").await;
            put(c, &format!("/{bucket}/k"), bucket.as_bytes()).await;
        }
        for (host, target, body) in [
            ("bucket.s3.test", "/k", "bucket"),
            ("BUCKET.s3.TEST:9000", "/k", "bucket"),
            ("bucket.s3.test.", "/k", "bucket"),
            ("with.dots.s3.test:1", "/k", "with.dots"),
            ("s3.test", "/bucket/k", "bucket"),
            ("s3.test:9000", "/with.dots/k", "with.dots"),
            ("[::1]:9000", "/with.dots/k", "with.dots"),
            ("[2001:db8::1]", "/bucket/k", "bucket"),
            ("127.0.0.1:9000", "/with.dots/k", "with.dots"),
            // A bucket's name alone is no address of it.
            ("with.dots", "/bucket/k", "bucket"),
            ("bucket", "/with.dots/k", "with.dots"),
            ("bucket.s3.test.example", "/with.dots/k", "with.dots"),
            ("bucket.s3.test", "http://bucket.s3.test/k", "bucket"),
            (
                "s3.test:9000",
                "http://s3.test:9000/bucket/k?x-id=GetObject",
                "bucket",
            ),
        ] {
            let reply = call(c, Call::new("GET", target).host(host), b"").await;
            assert_eq!(
                (reply.status, reply.text()),
                (200, body.to_owned()),
                "{host} {target}"
            );
        }
        let list = call(
            c,
            Call::new("GET", "/?list-type=2").host("bucket.s3.test"),
            b"",
        )
        .await;
        assert!(
            list.text().contains("<Name>bucket</Name>"),
            "{}",
            list.text()
        );
        let whole = call(
            c,
            Call::new("GET", "http://bucket.s3.test").host("bucket.s3.test"),
            b"",
        )
        .await;
        assert!(
            whole.text().contains("<Name>bucket</Name>"),
            "{}",
            whole.text()
        );
        let made = call(c, Call::new("PUT", "/").host("made.s3.test"), b"").await;
        assert_eq!(made.status, 200, "{}", made.text());
        assert_eq!(call(c, Call::new("HEAD", "/made"), b"").await.status, 200);
        let cname = call(c, Call::new("GET", "/k").host("with.dots"), b"").await;
        assert_eq!(cname.code(), "InvalidBucketName");
        // Health is the server's, and not a bucket's.
        let health = "GET /minio/health/live HTTP/1.1\r\nHost:";
        c.send(format!("{health} s3.test\r\n\r\n").as_bytes()).await;
        assert_eq!(c.reply(false).await.status, 200);
        c.send(format!("{health} bucket.s3.test\r\n\r\n").as_bytes())
            .await;
        assert_eq!(c.reply(false).await.code(), "AccessDenied");
        let mut other = Client::connect(&server).await;
        other
            .send(b"GET http://elsewhere/bucket/k HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            .await;
        let refused = other.reply(false).await;
        assert_eq!((refused.status, refused.code()), (400, "BadRequest".into()));
    });
}

#[test]
fn what_is_not_spoken_here_is_refused_by_name() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        put(c, "/bucket", b"").await;
        put(c, "/bucket/k", b"kept").await;
        let form =
            "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5\r\n\r\n--x--";
        let v4a = "AWS4-ECDSA-P256-SHA256";
        let plain = "Host: 127.0.0.1\r\n";
        let cases = [
            (
                format!("POST /bucket HTTP/1.1\r\n{plain}{form}"),
                501,
                "NotImplemented",
                "multipart/form-data",
            ),
            (
                format!(
                    "PUT /bucket/k HTTP/1.1\r\n{plain}Authorization: AWS AKID:c2ln\r\nContent-Length: 1\r\n\r\nx"
                ),
                400,
                "InvalidRequest",
                "mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256",
            ),
            (
                format!(
                    "DELETE /bucket/k?AWSAccessKeyId=a&Signature=b&Expires=9999999999 HTTP/1.1\r\n{plain}\r\n"
                ),
                400,
                "InvalidRequest",
                "mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256",
            ),
            (
                format!(
                    "DELETE /bucket/k HTTP/1.1\r\n{plain}Authorization: {v4a} Credential=ROOT/20300101/s3/aws4_request, SignedHeaders=host, Signature=00\r\nx-amz-region-set: *\r\n\r\n"
                ),
                400,
                "InvalidRequest",
                "Version 4A",
            ),
            (
                format!(
                    "DELETE /bucket/k?X-Amz-Algorithm={v4a}&X-Amz-Credential=a&X-Amz-Date=a&X-Amz-Expires=1&X-Amz-SignedHeaders=host&X-Amz-Region-Set=*&X-Amz-Signature=0 HTTP/1.1\r\n{plain}\r\n"
                ),
                400,
                "InvalidRequest",
                "Version 4A",
            ),
            (
                format!(
                    "DELETE /bucket/k HTTP/1.1\r\n{plain}Authorization: Basic cm9vdDpyb290\r\n\r\n"
                ),
                400,
                "InvalidArgument",
                "Unsupported Authorization Type",
            ),
            (
                format!("DELETE /bucket/k HTTP/1.1\r\n{plain}\r\n"),
                403,
                "AccessDenied",
                "Access Denied",
            ),
        ];
        for (text, status, code, part) in cases {
            let mut client = Client::connect(&server).await;
            client.send(text.as_bytes()).await;
            let reply = client.reply(false).await;
            assert_eq!(
                (reply.status, reply.code()),
                (status, code.to_owned()),
                "{text}"
            );
            assert!(reply.text().contains(part), "{}", reply.text());
        }
        let token = Call::new("DELETE", "/bucket/k").field("x-amz-security-token", "t");
        let reply = call(c, token, b"").await;
        assert_eq!((reply.status, reply.code()), (400, "InvalidToken".into()));
        assert!(reply.text().contains("x-amz-security-token"));
        let form =
            Call::new("POST", "/bucket").field("Content-Type", "multipart/form-data; boundary=x");
        let reply = call(c, form, b"--x--").await;
        assert_eq!((reply.status, reply.code()), (501, "NotImplemented".into()));
        assert_eq!(server.store.object("bucket", "k").unwrap().1, b"kept");
    });
}
