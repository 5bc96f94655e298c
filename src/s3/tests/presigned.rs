//! Requests that are signed in their query.

use super::*;

fn presign(method: &str, target: &str) -> String {
    crate::s3::sigv4::tests::presign(method, target, "ROOT", SECRET, "us-east-1", unix_ms())
}

async fn send(c: &mut Client, method: &str, target: &str, fields: &str, body: &str) -> Reply {
    let length = match method {
        "PUT" | "POST" => format!("Content-Length: {}\r\n", body.len()),
        _ => String::new(),
    };
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}{length}\r\n{body}");
    c.send(request.as_bytes()).await;
    c.reply(method == "HEAD").await
}

#[test]
fn presigned_requests_are_served() {
    with_server(|server| async move {
        let mut client = Client::connect(&server).await;
        let c = &mut client;
        assert_eq!(call(c, Call::new("PUT", "/bucket"), b"").await.status, 200);
        assert_eq!(
            call(c, Call::new("PUT", "/bucket/k"), b"hello")
                .await
                .status,
            200
        );
        let target = presign("GET", "/bucket/k?response-content-type=a%2Fb");
        c.send(format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
            .await;
        let reply = c.reply(false).await;
        assert_eq!(
            (reply.status, &reply.body[..]),
            (200, &b"hello"[..]),
            "{}",
            reply.text()
        );
        assert_eq!(reply.header("content-type"), Some("a/b"));
        let injected = presign(
            "GET",
            "/bucket/k?response-content-type=a%0D%0ASet-Cookie%3A%20x",
        );
        c.send(format!("GET {injected} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").as_bytes())
            .await;
        assert_eq!(c.reply(false).await.code(), "InvalidArgument");
        let put = presign("PUT", "/bucket/p");
        c.send(
            format!("PUT {put} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc")
                .as_bytes(),
        )
        .await;
        assert_eq!(c.reply(false).await.status, 200);
        assert_eq!(server.store.object("bucket", "p").unwrap().1, b"abc");
        let add = "x-amz-copy-source: /bucket/k\r\n";
        c.send(
            format!("PUT {put} HTTP/1.1\r\nHost: 127.0.0.1\r\n{add}Content-Length: 3\r\n\r\nxyz")
                .as_bytes(),
        )
        .await;
        assert_eq!(c.reply(false).await.code(), "AccessDenied");
        assert_eq!(server.store.object("bucket", "p").unwrap().1, b"abc");
    });
}

#[test]
fn hoisted_headers_are_honoured_or_refused() {
    with_server(|server| async move {
        let mut client = client_with_bucket(&server).await;
        let c = &mut client;
        let target = presign(
            "PUT",
            "/bucket/k?x-amz-meta-One=1%20%26%202&X-Amz-Acl=private&x-amz-checksum-crc32=AAAAAA%3D%3D\
             &x-amz-sdk-checksum-algorithm=CRC32&x-amz-storage-class=REDUCED_REDUNDANCY\
             &x-id=PutObject",
        );
        let put = send(c, "PUT", &target, "", "hello").await;
        assert_eq!(put.status, 200, "{}", put.text());
        // That of an empty body, which an SDK computes while it has none, is not held against this one.
        assert_eq!(
            put.header("x-amz-checksum-crc32"),
            Some(&checksum(Algorithm::Crc32, b"hello")[..])
        );
        let (info, _) = server.store.object("bucket", "k").unwrap();
        assert_eq!(info.headers.user, [("one".to_owned(), "1 & 2".to_owned())]);
        assert_eq!(
            info.headers.storage_class.as_deref(),
            Some("REDUCED_REDUNDANCY")
        );
        // Asked for, not given.
        let asked = presign("PUT", "/bucket/asked?X-Amz-Sdk-Checksum-Algorithm=SHA256");
        let put = send(c, "PUT", &asked, "", "hello").await;
        assert_eq!(
            put.header("x-amz-checksum-sha256"),
            Some(&checksum(Algorithm::Sha256, b"hello")[..])
        );
        let only = presign("PUT", "/bucket/once?x-amz-meta-a=b");
        let same = "x-amz-meta-a: b\r\n";
        // Unsigned, whatever it says.
        assert_eq!(
            send(c, "PUT", &only, same, "x").await.code(),
            "AccessDenied"
        );

        for (query, code) in [
            ("x-amz-acl=public-read", "NotImplemented"),
            ("x-amz-tagging=a%3Db", "NotImplemented"),
            ("X-Amz-Server-Side-Encryption=AES256", "NotImplemented"),
            ("x-amz-object-lock-mode=GOVERNANCE", "NotImplemented"),
            ("x-amz-grant-read=id%3D1", "NotImplemented"),
            ("x-amz-website-redirect-location=%2Fx", "NotImplemented"),
            ("x-amz-never-heard-of=1", "NotImplemented"),
            ("x-amz-storage-class=GLACIER", "InvalidStorageClass"),
            ("x-amz-expected-bucket-owner=other-id", "AccessDenied"),
            ("x-amz-meta-a=1&X-Amz-Meta-A=2", "InvalidArgument"),
            (
                "x-amz-meta-a=1%0D%0Ax-amz-acl%3A%20private",
                "InvalidArgument",
            ),
            ("x-amz-content-sha256=UNSIGNED-PAYLOAD", "InvalidArgument"),
            ("x-amz-decoded-content-length=3", "InvalidRequest"),
            ("x-amz-trailer=x-amz-checksum-crc32", "InvalidRequest"),
            ("x-amz-security-token=a", "NotImplemented"),
            ("X-Amz-Security-Token=a", "InvalidToken"),
            ("x-amz-copy-source=bucket%2Fk", "UnexpectedContent"),
            ("Content-Type=a%2Fb", "NotImplemented"),
            ("If-None-Match=%2A", "NotImplemented"),
        ] {
            let target = presign("PUT", &format!("/bucket/refused?{query}"));
            let mut client = Client::connect(&server).await;
            let reply = send(&mut client, "PUT", &target, "", "abc").await;
            assert_eq!(reply.code(), code, "{query}");
            assert!(
                server.store.object("bucket", "refused").is_none(),
                "{query}"
            );
        }
        // In the query of a request that is signed in its header it is no header.
        let plain = Call::new("PUT", "/bucket/refused?x-amz-meta-a=1");
        assert_eq!(call(c, plain, b"abc").await.code(), "NotImplemented");
        // A copy that was signed as one.
        let target = presign("PUT", "/bucket/copied?x-amz-copy-source=bucket%2Fk");
        let copied = send(c, "PUT", &target, "", "").await;
        assert_eq!(copied.status, 200, "{}", copied.text());
        assert_eq!(server.store.object("bucket", "copied").unwrap().1, b"hello");
        let changed = target.replace("%2Fk", "%2Fasked");
        assert_eq!(
            send(c, "PUT", &changed, "", "").await.code(),
            "SignatureDoesNotMatch"
        );
        let target = presign("HEAD", "/bucket/k?x-amz-checksum-mode=ENABLED");
        let head = send(c, "HEAD", &target, "", "").await;
        assert!(head.header("x-amz-checksum-crc32").is_some());
    });
}
