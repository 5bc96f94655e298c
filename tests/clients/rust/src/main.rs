//! Every case that with_sdk.py names, by aws-sdk-s3; prints "case NAME ok" or "case NAME FAILED: why".

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Builder, Credentials, Region};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::{ByteStream, DateTime, DateTimeFormat};
use aws_sdk_s3::types::{
    BucketLocationConstraint, ChecksumAlgorithm, ChecksumMode, ChecksumType,
    CompletedMultipartUpload, CompletedPart, Delete, EncodingType, MetadataDirective,
    ObjectAttributes, ObjectIdentifier,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::process::Command;
use std::time::{Duration, SystemTime};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn connect(access: &str, secret: &str) -> Client {
    let mut trusted = TrustStore::empty();
    let authority = variable("SSL_CERT_FILE");
    if !authority.is_empty() {
        trusted = trusted.with_pem_certificate(std::fs::read(authority).unwrap());
    }
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(Provider::Rustls(CryptoMode::Ring))
        .tls_context(
            TlsContext::builder()
                .with_trust_store(trusted)
                .build()
                .unwrap(),
        )
        .build_https();
    Client::from_conf(
        Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .http_client(http)
            .endpoint_url(variable("S3_ENDPOINT"))
            .credentials_provider(Credentials::from_keys(access, secret, None))
            .region(Region::new("us-east-1"))
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .build(),
    )
}

fn equal<T: PartialEq + Debug>(found: T, wanted: T, what: &str) -> Outcome {
    if found == wanted {
        return Ok(());
    }
    let short = |value| format!("{value:?}").chars().take(300).collect::<String>();
    Err(format!("{what}: found {}, wanted {}", short(found), short(wanted)).into())
}

fn same(found: &[u8], wanted: &[u8], what: &str) -> Outcome {
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "{what}: {} bytes are not the {} wanted",
        found.len(),
        wanted.len()
    )
    .into())
}

/// The call must have failed with this code and status.
fn refused<T, E: ProvideErrorMetadata + Error + 'static>(
    outcome: Result<T, SdkError<E>>,
    code: &str,
    status: u16,
) -> Outcome {
    let Err(error) = outcome else {
        return Err(format!("not refused: wanted {code}").into());
    };
    let found = error.raw_response().map(|answer| answer.status().as_u16());
    if error.code() != Some(code) || found != Some(status) {
        return Err(format!(
            "refused with {:?} {found:?}, wanted {code} {status}: {error:?}",
            error.code()
        )
        .into());
    }
    Ok(())
}

fn content(size: usize, seed: u64) -> Vec<u8> {
    let mut state = (seed << 32) ^ size as u64 | 1;
    let mut body = Vec::with_capacity(size + 8);
    while body.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend(state.to_le_bytes());
    }
    body.truncate(size);
    body
}

/// As `encodeURIComponent` has it.
fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| {
            if plain(byte) {
                char::from(byte).to_string()
            } else {
                format!("%{byte:02X}")
            }
        })
        .collect()
}

fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&rest[..2]).unwrap(), 16).unwrap());
            rest = &rest[2..];
        } else {
            out.push(if byte == b'+' { b' ' } else { byte });
        }
    }
    String::from_utf8(out).unwrap()
}

/// Every key to be tried, and those of them that XML can hold.
fn given() -> (Vec<String>, Vec<String>) {
    let (mut all, mut plain) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(variable("S3_KEYS"))
        .unwrap()
        .lines()
    {
        let (kind, hex) = line.split_once(':').unwrap();
        let bytes = (0..hex.len())
            .step_by(2)
            .map(|n| u8::from_str_radix(&hex[n..n + 2], 16).unwrap());
        let key = String::from_utf8(bytes.collect()).unwrap();
        all.push(key.clone());
        if kind == "plain" {
            plain.push(key);
        }
    }
    all.sort();
    plain.sort();
    (all, plain)
}

fn algorithms() -> [ChecksumAlgorithm; 5] {
    use ChecksumAlgorithm::{Crc32, Crc32C, Crc64Nvme, Sha1, Sha256};
    [Crc32, Crc32C, Crc64Nvme, Sha1, Sha256]
}

fn curl(words: &[&str]) -> Outcome<Vec<u8>> {
    let done = Command::new("curl")
        .args(["-sS", "--fail-with-body"])
        .args(words)
        .output()?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(format!("curl: {said} {}", String::from_utf8_lossy(&done.stdout)).into());
    }
    Ok(done.stdout)
}

struct Upload {
    bucket: String,
    key: String,
    id: String,
    algorithm: Option<ChecksumAlgorithm>,
}

/// One case: a client, and the names of the buckets it makes.
struct Case {
    s3: Client,
    made: usize,
    name: &'static str,
}

impl Case {
    async fn bucket(&mut self) -> Outcome<String> {
        self.made += 1;
        let name = format!(
            "{}-{}-{}",
            variable("S3_BUCKET"),
            self.name.replace('_', "-"),
            self.made
        );
        self.s3.create_bucket().bucket(&name).send().await?;
        Ok(name)
    }

    async fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Outcome<String> {
        let body = ByteStream::from(body.to_vec());
        let answer = self
            .s3
            .put_object()
            .bucket(bucket)
            .key(key)
            .body(body)
            .send()
            .await?;
        Ok(answer.e_tag.unwrap_or_default())
    }

    async fn get(&self, bucket: &str, key: &str) -> Outcome<Vec<u8>> {
        let answer = self.s3.get_object().bucket(bucket).key(key).send().await?;
        Ok(answer.body.collect().await?.to_vec())
    }

    async fn keys(&self, bucket: &str, url: bool) -> Outcome<Vec<String>> {
        let call = self
            .s3
            .list_objects_v2()
            .bucket(bucket)
            .set_encoding_type(url.then_some(EncodingType::Url));
        let mut pages = call.into_paginator().page_size(7).send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            for item in page?.contents() {
                let key = item.key().unwrap_or_default();
                found.push(if url { unescaped(key) } else { key.to_owned() });
            }
        }
        Ok(found)
    }

    async fn begin(
        &self,
        bucket: &str,
        key: &str,
        algorithm: Option<ChecksumAlgorithm>,
    ) -> Outcome<Upload> {
        let call = self.s3.create_multipart_upload().bucket(bucket).key(key);
        let answer = call
            .set_checksum_algorithm(algorithm.clone())
            .send()
            .await?;
        let id = answer.upload_id.ok_or("no upload id")?;
        Ok(Upload {
            bucket: bucket.into(),
            key: key.into(),
            id,
            algorithm,
        })
    }

    async fn part(&self, to: &Upload, number: i32, body: &[u8]) -> Outcome<CompletedPart> {
        let call = self
            .s3
            .upload_part()
            .bucket(&to.bucket)
            .key(&to.key)
            .upload_id(&to.id)
            .part_number(number);
        let call = call
            .set_checksum_algorithm(to.algorithm.clone())
            .body(ByteStream::from(body.to_vec()));
        let answer = call.send().await?;
        Ok(CompletedPart::builder()
            .part_number(number)
            .set_e_tag(answer.e_tag)
            .set_checksum_crc32(answer.checksum_crc32)
            .set_checksum_crc32_c(answer.checksum_crc32_c)
            .set_checksum_crc64_nvme(answer.checksum_crc64_nvme)
            .set_checksum_sha1(answer.checksum_sha1)
            .set_checksum_sha256(answer.checksum_sha256)
            .build())
    }

    async fn complete(&self, to: &Upload, parts: Vec<CompletedPart>) -> Outcome<String> {
        let parts = CompletedMultipartUpload::builder()
            .set_parts(Some(parts))
            .build();
        let call = self
            .s3
            .complete_multipart_upload()
            .bucket(&to.bucket)
            .key(&to.key)
            .upload_id(&to.id);
        Ok(call
            .multipart_upload(parts)
            .send()
            .await?
            .e_tag
            .unwrap_or_default())
    }

    async fn uploads(&self, bucket: &str) -> Outcome<Vec<String>> {
        let answer = self
            .s3
            .list_multipart_uploads()
            .bucket(bucket)
            .send()
            .await?;
        Ok(answer
            .uploads()
            .iter()
            .filter_map(|upload| upload.key.clone())
            .collect())
    }

    async fn buckets(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let listed = self.s3.list_buckets().send().await?;
        equal(
            listed
                .buckets()
                .iter()
                .any(|bucket| bucket.name() == Some(&name)),
            true,
            "listed",
        )?;
        self.s3.head_bucket().bucket(&name).send().await?;
        let place = self
            .s3
            .get_bucket_location()
            .bucket(&name)
            .send()
            .await?
            .location_constraint;
        equal(
            place.as_ref().map_or("", BucketLocationConstraint::as_str),
            "",
            "location",
        )?;
        self.put(&name, "k", b"x").await?;
        refused(
            self.s3.delete_bucket().bucket(&name).send().await,
            "BucketNotEmpty",
            409,
        )?;
        self.s3
            .delete_object()
            .bucket(&name)
            .key("k")
            .send()
            .await?;
        self.s3.delete_bucket().bucket(&name).send().await?;
        refused(
            self.s3.head_bucket().bucket(&name).send().await,
            "NotFound",
            404,
        )
    }

    async fn sizes(&mut self) -> Outcome {
        let name = self.bucket().await?;
        for size in [0, 1, 100 * KIB, 3 * MIB] {
            let (key, body) = (format!("size/{size}"), content(size, 1));
            let tag = self.put(&name, &key, &body).await?;
            same(&self.get(&name, &key).await?, &body, &key)?;
            let head = self.s3.head_object().bucket(&name).key(&key).send().await?;
            equal(head.content_length(), Some(size as i64), "length")?;
            equal(head.e_tag(), Some(&*tag), "ETag")?;
            let modified = SystemTime::try_from(*head.last_modified().ok_or("no Last-Modified")?)?;
            let age = SystemTime::now()
                .duration_since(modified)
                .unwrap_or_default();
            equal(age < Duration::from_secs(60), true, "age")?;
            self.s3
                .delete_object()
                .bucket(&name)
                .key(&key)
                .send()
                .await?;
            refused(
                self.s3.get_object().bucket(&name).key(&key).send().await,
                "NoSuchKey",
                404,
            )?;
            refused(
                self.s3.head_object().bucket(&name).key(&key).send().await,
                "NotFound",
                404,
            )?;
        }
        Ok(())
    }

    async fn refusals(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let missing = self.s3.get_object().bucket(&name).key("k").send().await;
        let typed = missing
            .as_ref()
            .is_err_and(|e| e.as_service_error().is_some_and(|e| e.is_no_such_key()));
        equal(typed, true, "NoSuchKey has its type")?;
        refused(missing, "NoSuchKey", 404)?;
        let none = format!("{name}-none");
        refused(
            self.s3.get_object().bucket(none).key("k").send().await,
            "NoSuchBucket",
            404,
        )?;
        let wrong = connect(
            &variable("S3_ACCESS_KEY"),
            &format!("wrong-{}", variable("S3_SECRET_KEY")),
        );
        refused(
            wrong.get_object().bucket(&name).key("k").send().await,
            "SignatureDoesNotMatch",
            403,
        )?;
        for size in [0, 100, 9 * MIB] {
            let call = wrong
                .put_object()
                .bucket(&name)
                .key("k")
                .body(ByteStream::from(content(size, 2)));
            refused(call.send().await, "SignatureDoesNotMatch", 403)?;
        }
        let nobody = connect("NOSUCHKEY", "secret-of-no-one");
        refused(
            nobody.list_buckets().send().await,
            "InvalidAccessKeyId",
            403,
        )?;
        equal(self.keys(&name, false).await?, vec![], "nothing was stored")
    }

    async fn ranges(&mut self) -> Outcome {
        let (name, body) = (self.bucket().await?, content(300 * KIB, 3));
        self.put(&name, "r", &body).await?;
        let last = body.len() - 1;
        for (range, from, to) in [
            ("bytes=0-0", 0, 0),
            ("bytes=1000-200000", 1000, 200_000),
            ("bytes=300000-", 300_000, last),
            ("bytes=-7", last - 6, last),
        ] {
            let answer = self
                .s3
                .get_object()
                .bucket(&name)
                .key("r")
                .range(range)
                .send()
                .await?;
            let wanted = format!("bytes {from}-{to}/{}", body.len());
            equal(answer.content_range(), Some(&*wanted), "Content-Range")?;
            same(
                &answer.body.collect().await?.to_vec(),
                &body[from..=to],
                range,
            )?;
        }
        let beyond = self
            .s3
            .get_object()
            .bucket(&name)
            .key("r")
            .range("bytes=400000-");
        refused(beyond.send().await, "InvalidRange", 416)
    }

    async fn metadata(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let wanted = HashMap::from([
            ("one".to_owned(), "1".to_owned()),
            ("with-dash".to_owned(), "a value".to_owned()),
        ]);
        self.s3
            .put_object()
            .bucket(&name)
            .key("m")
            .body(ByteStream::from_static(b"abc"))
            .set_metadata(Some(wanted.clone()))
            .content_type("text/x-test")
            .content_encoding("gzip")
            .content_language("de-CH")
            .content_disposition("attachment; filename=\"a b.txt\"")
            .cache_control("max-age=17, private")
            .expires(DateTime::from_str(
                "2031-02-03T04:05:06Z",
                DateTimeFormat::DateTime,
            )?)
            .send()
            .await?;
        let head = self.s3.head_object().bucket(&name).key("m").send().await?;
        equal(head.metadata(), Some(&wanted), "metadata")?;
        equal(
            [
                head.content_type(),
                head.content_encoding(),
                head.content_language(),
                head.content_disposition(),
                head.cache_control(),
                head.expires_string(),
            ],
            [
                Some("text/x-test"),
                Some("gzip"),
                Some("de-CH"),
                Some("attachment; filename=\"a b.txt\""),
                Some("max-age=17, private"),
                Some("Mon, 03 Feb 2031 04:05:06 GMT"),
            ],
            "headers",
        )?;
        let answer = self
            .s3
            .get_object()
            .bucket(&name)
            .key("m")
            .response_content_type("x/y")
            .send()
            .await?;
        equal(answer.content_type(), Some("x/y"), "response-content-type")?;
        same(&answer.body.collect().await?.to_vec(), b"abc", "body")
    }

    async fn odd_keys(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let (all, plain) = given();
        for key in &plain {
            self.put(&name, key, key.as_bytes()).await?;
        }
        equal(self.keys(&name, false).await?, plain, "listing")?;
        for key in &all {
            self.put(&name, key, key.as_bytes()).await?;
        }
        equal(
            &self.keys(&name, true).await?,
            &all,
            "listing with encoding-type url",
        )?;
        for key in &all {
            same(&self.get(&name, key).await?, key.as_bytes(), key)?;
            self.s3.head_object().bucket(&name).key(key).send().await?;
            let source = escaped(&format!("{name}/{key}"));
            self.s3
                .copy_object()
                .bucket(&name)
                .key("copy")
                .copy_source(source)
                .send()
                .await?;
            same(&self.get(&name, "copy").await?, key.as_bytes(), key)?;
            self.s3
                .delete_object()
                .bucket(&name)
                .key(key)
                .send()
                .await?;
        }
        equal(
            self.keys(&name, true).await?,
            vec!["copy".to_owned()],
            "listing after deletes",
        )
    }

    async fn listing(&mut self) -> Outcome {
        let many = variable("S3_MANY");
        let wanted: Vec<String> = (0..1100)
            .map(|n| format!("{:02}/{n:04}", n / 100))
            .collect();
        for (size, count) in [(None, 2), (Some(300), 4)] {
            let pages = self
                .s3
                .list_objects_v2()
                .bucket(&many)
                .set_max_keys(size)
                .into_paginator();
            let (mut pages, mut found, mut seen) = (pages.send(), Vec::new(), 0);
            while let Some(page) = pages.next().await {
                found.extend(page?.contents().iter().filter_map(|item| item.key.clone()));
                seen += 1;
            }
            equal(&found, &wanted, "keys")?;
            equal(seen, count, "pages")?;
        }
        let call = self.s3.list_objects_v2().bucket(&many).delimiter("/");
        let (mut pages, mut found) = (call.into_paginator().page_size(4).send(), Vec::new());
        while let Some(page) = pages.next().await {
            found.extend(
                page?
                    .common_prefixes()
                    .iter()
                    .filter_map(|item| item.prefix.clone()),
            );
        }
        equal(
            found,
            (0..11).map(|n| format!("{n:02}/")).collect(),
            "prefixes",
        )?;
        let call = self
            .s3
            .list_objects_v2()
            .bucket(&many)
            .prefix("05/05")
            .start_after("05/0597");
        let page = call.send().await?;
        let found: Vec<_> = page
            .contents()
            .iter()
            .filter_map(|item| item.key())
            .collect();
        equal(
            (found, page.key_count()),
            (vec!["05/0598", "05/0599"], Some(2)),
            "start after",
        )?;
        let old = self
            .s3
            .list_objects()
            .bucket(&many)
            .marker("10/1097")
            .send()
            .await?;
        equal(
            (old.contents().len(), old.is_truncated()),
            (2, Some(false)),
            "version 1",
        )
    }

    async fn copies(&mut self) -> Outcome {
        let (name, other) = (self.bucket().await?, self.bucket().await?);
        let (key, body) = ("a b/ü+%", content(2 * MIB, 4));
        let call = self
            .s3
            .put_object()
            .bucket(&name)
            .key(key)
            .metadata("n", "1");
        let tag = call
            .body(ByteStream::from(body.clone()))
            .send()
            .await?
            .e_tag;
        let source = escaped(&format!("{name}/{key}"));
        let answer = self
            .s3
            .copy_object()
            .bucket(&other)
            .key("c")
            .copy_source(&source)
            .send()
            .await?;
        equal(
            answer
                .copy_object_result()
                .and_then(|result| result.e_tag.clone()),
            tag,
            "ETag",
        )?;
        same(&self.get(&other, "c").await?, &body, "copy")?;
        let head = self.s3.head_object().bucket(&other).key("c").send().await?;
        equal(
            head.metadata().and_then(|m| m.get("n")),
            Some(&"1".to_owned()),
            "metadata",
        )?;
        let call = self
            .s3
            .copy_object()
            .bucket(&name)
            .key(key)
            .copy_source(&source);
        call.metadata_directive(MetadataDirective::Replace)
            .metadata("n", "2")
            .send()
            .await?;
        let head = self.s3.head_object().bucket(&name).key(key).send().await?;
        equal(
            head.metadata().and_then(|m| m.get("n")),
            Some(&"2".to_owned()),
            "replaced",
        )?;
        let none = self
            .s3
            .copy_object()
            .bucket(&other)
            .key("d")
            .copy_source(format!("{name}/none"));
        refused(none.send().await, "NoSuchKey", 404)
    }

    async fn deletes_together(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let (_, mut keys) = given();
        for key in &keys {
            self.put(&name, key, b"").await?;
        }
        self.put(&name, "stays", b"").await?;
        keys.push("was-never-there".into());
        let delete = |keys: &[String], quiet| {
            let objects = keys
                .iter()
                .map(|key| ObjectIdentifier::builder().key(key).build().unwrap())
                .collect();
            Delete::builder()
                .set_objects(Some(objects))
                .quiet(quiet)
                .build()
                .unwrap()
        };
        let answer = self
            .s3
            .delete_objects()
            .bucket(&name)
            .delete(delete(&keys, false))
            .send()
            .await?;
        equal(
            (answer.deleted().len(), answer.errors().len()),
            (keys.len(), 0),
            "deleted",
        )?;
        equal(
            self.keys(&name, false).await?,
            vec!["stays".to_owned()],
            "listing",
        )?;
        let last = delete(&["stays".to_owned()], true);
        let answer = self
            .s3
            .delete_objects()
            .bucket(&name)
            .delete(last)
            .send()
            .await?;
        equal(answer.deleted().len(), 0, "quiet")?;
        equal(self.keys(&name, false).await?, vec![], "listing")
    }

    async fn conditions(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let put = |body: &'static [u8]| {
            self.s3
                .put_object()
                .bucket(&name)
                .key("k")
                .body(ByteStream::from_static(body))
        };
        let first = put(b"old")
            .if_none_match("*")
            .send()
            .await?
            .e_tag
            .unwrap_or_default();
        refused(
            put(b"new").if_none_match("*").send().await,
            "PreconditionFailed",
            412,
        )?;
        refused(
            put(b"new").if_match("\"other\"").send().await,
            "PreconditionFailed",
            412,
        )?;
        same(&self.get(&name, "k").await?, b"old", "after refusals")?;
        let second = put(b"new")
            .if_match(&first)
            .send()
            .await?
            .e_tag
            .unwrap_or_default();
        same(&self.get(&name, "k").await?, b"new", "after the match")?;
        let get = || self.s3.get_object().bucket(&name).key("k");
        refused(
            get().if_match(&first).send().await,
            "PreconditionFailed",
            412,
        )?;
        let unchanged = get().if_none_match(&second).send().await;
        let status = unchanged
            .err()
            .and_then(|error| error.raw_response().map(|answer| answer.status().as_u16()));
        equal(status, Some(304), "not modified")
    }

    async fn checksums(&mut self) -> Outcome {
        let name = self.bucket().await?;
        let file = format!("{}/checksums", variable("S3_SCRATCH"));
        for algorithm in algorithms() {
            for size in [0, 1, 100 * KIB, 2 * MIB] {
                let body = content(size, 5);
                std::fs::write(&file, &body)?;
                // A file is sent with its checksum in a trailer, bytes at hand with a header.
                for stream in [
                    ByteStream::from(body.clone()),
                    ByteStream::from_path(&file).await?,
                ] {
                    let call = self.s3.put_object().bucket(&name).key("k").body(stream);
                    let sent = call.checksum_algorithm(algorithm.clone()).send().await?;
                    let call = self.s3.head_object().bucket(&name).key("k");
                    let head = call.checksum_mode(ChecksumMode::Enabled).send().await?;
                    let sent = [
                        sent.checksum_crc32,
                        sent.checksum_crc32_c,
                        sent.checksum_crc64_nvme,
                        sent.checksum_sha1,
                        sent.checksum_sha256,
                    ];
                    let expected = algorithms().map(|other| other == algorithm);
                    equal(
                        sent.each_ref().map(Option::is_some),
                        expected,
                        algorithm.as_str(),
                    )?;
                    let found = [
                        head.checksum_crc32,
                        head.checksum_crc32_c,
                        head.checksum_crc64_nvme,
                        head.checksum_sha1,
                        head.checksum_sha256,
                    ];
                    equal(found, sent, "checksum")?;
                    equal(head.checksum_type, Some(ChecksumType::FullObject), "type")?;
                    // The SDK verifies what it reads.
                    let call = self.s3.get_object().bucket(&name).key("k");
                    let answer = call.checksum_mode(ChecksumMode::Enabled).send().await?;
                    same(
                        &answer.body.collect().await?.to_vec(),
                        &body,
                        algorithm.as_str(),
                    )?;
                }
            }
        }
        let call = self
            .s3
            .put_object()
            .bucket(&name)
            .key("wrong")
            .body(ByteStream::from_static(b"x"));
        refused(
            call.checksum_crc32("AAAAAA==").send().await,
            "BadDigest",
            400,
        )
    }

    async fn presigned(&mut self) -> Outcome {
        let (name, key, body) = (self.bucket().await?, "pre signed/ü+%", content(70 * KIB, 6));
        let file = format!("{}/presigned", variable("S3_SCRATCH"));
        std::fs::write(&file, &body)?;
        let minute = PresigningConfig::expires_in(Duration::from_secs(60))?;
        let up = self
            .s3
            .put_object()
            .bucket(&name)
            .key(key)
            .presigned(minute.clone())
            .await?;
        let headers: Vec<String> = up
            .headers()
            .map(|(name, value)| format!("{name}: {value}"))
            .collect();
        let data = format!("@{file}");
        let mut words = vec!["-X", "PUT", "-H", "Content-Type:", "--data-binary", &data];
        for header in headers
            .iter()
            .filter(|header| !header.starts_with("content-length"))
        {
            words.extend(["-H", header]);
        }
        words.push(up.uri());
        curl(&words)?;
        same(&self.get(&name, key).await?, &body, "presigned put")?;
        let down = self
            .s3
            .get_object()
            .bucket(&name)
            .key(key)
            .presigned(minute)
            .await?;
        same(&curl(&[down.uri()])?, &body, "presigned get")?;
        let altered = down.uri().replace("X-Amz-Expires=60", "X-Amz-Expires=61");
        let said = curl(&[&altered])
            .err()
            .map(|error| error.to_string())
            .unwrap_or_default();
        equal(said.contains("SignatureDoesNotMatch"), true, &said)
    }

    /// The SDK has no manager of transfers: parts at once, as one would do it.
    async fn large_object(&mut self) -> Outcome {
        let (name, body) = (self.bucket().await?, content(24 * MIB + 3, 7));
        let to = self.begin(&name, "large", None).await?;
        let pieces: Vec<&[u8]> = body.chunks(5 * MIB).collect();
        let part = |n: usize| self.part(&to, n as i32 + 1, pieces[n]);
        let (a, b, c, d, e) = tokio::join!(part(0), part(1), part(2), part(3), part(4));
        let tag = self.complete(&to, vec![a?, b?, c?, d?, e?]).await?;
        equal(tag.ends_with("-5\""), true, &tag)?;
        same(&self.get(&name, "large").await?, &body, "bytes")
    }

    async fn streamed(&mut self) -> Outcome {
        let (name, body) = (self.bucket().await?, content(11 * MIB, 8));
        let file = format!("{}/streamed", variable("S3_SCRATCH"));
        std::fs::write(&file, &body)?;
        let stream = ByteStream::from_path(&file).await?;
        self.s3
            .put_object()
            .bucket(&name)
            .key("streamed")
            .body(stream)
            .send()
            .await?;
        let mut answer = self
            .s3
            .get_object()
            .bucket(&name)
            .key("streamed")
            .send()
            .await?;
        let mut found = Vec::new();
        while let Some(piece) = answer.body.try_next().await? {
            found.extend(piece);
        }
        same(&found, &body, "streamed")
    }

    async fn parts_out_of_order(&mut self) -> Outcome {
        let (name, key) = (self.bucket().await?, "out of order/ü");
        let bodies = [5 * MIB, 10 * MIB + 1, 5 * MIB + 77, 10].map(|size| content(size, 9));
        let to = self.begin(&name, key, None).await?;
        let mut parts = vec![None; 4];
        for n in [3, 1, 0, 2] {
            parts[n] = Some(self.part(&to, n as i32 + 1, &bodies[n]).await?);
        }
        let call = self
            .s3
            .list_parts()
            .bucket(&name)
            .key(key)
            .upload_id(&to.id)
            .max_parts(3);
        let (mut pages, mut found) = (call.into_paginator().send(), Vec::new());
        while let Some(page) = pages.next().await {
            found.extend(page?.parts().iter().filter_map(|part| part.size()));
        }
        equal(
            found,
            bodies.iter().map(|body| body.len() as i64).collect(),
            "sizes of parts",
        )?;
        equal(self.uploads(&name).await?, vec![key.to_owned()], "uploads")?;
        let tag = self
            .complete(&to, parts.into_iter().flatten().collect())
            .await?;
        equal(tag.ends_with("-4\""), true, &tag)?;
        equal(self.uploads(&name).await?, vec![], "uploads")?;
        same(&self.get(&name, key).await?, &bodies.concat(), "bytes")?;
        let second = self
            .s3
            .get_object()
            .bucket(&name)
            .key(key)
            .part_number(2)
            .send()
            .await?;
        equal(second.parts_count(), Some(4), "parts count")?;
        same(&second.body.collect().await?.to_vec(), &bodies[1], "part 2")
    }

    async fn parts_with_checksums(&mut self) -> Outcome {
        let name = self.bucket().await?;
        for algorithm in algorithms() {
            let (key, bodies) = (
                algorithm.as_str(),
                [content(5 * MIB, 10), content(1000, 10)],
            );
            let to = self.begin(&name, key, Some(algorithm.clone())).await?;
            let second = self.part(&to, 2, &bodies[1]).await?;
            let first = self.part(&to, 1, &bodies[0]).await?;
            self.complete(&to, vec![first, second]).await?;
            let call = self.s3.head_object().bucket(&name).key(key);
            let head = call.checksum_mode(ChecksumMode::Enabled).send().await?;
            let wanted = match algorithm {
                ChecksumAlgorithm::Crc64Nvme => ChecksumType::FullObject,
                _ => ChecksumType::Composite,
            };
            equal(head.checksum_type, Some(wanted), key)?;
            same(&self.get(&name, key).await?, &bodies.concat(), key)?;
        }
        Ok(())
    }

    async fn parts_copied(&mut self) -> Outcome {
        let (name, body) = (self.bucket().await?, content(11 * MIB, 11));
        self.put(&name, "a source", &body).await?;
        let (to, mut parts) = (self.begin(&name, "target", None).await?, Vec::new());
        for (number, range) in [(1, (0, 6 * MIB - 1)), (2, (6 * MIB, 11 * MIB - 1))] {
            let call = self
                .s3
                .upload_part_copy()
                .bucket(&name)
                .key("target")
                .upload_id(&to.id)
                .part_number(number);
            let call = call.copy_source(format!("{name}/a%20source"));
            let answer = call
                .copy_source_range(format!("bytes={}-{}", range.0, range.1))
                .send()
                .await?;
            let tag = answer.copy_part_result.and_then(|result| result.e_tag);
            parts.push(
                CompletedPart::builder()
                    .part_number(number)
                    .set_e_tag(tag)
                    .build(),
            );
        }
        self.complete(&to, parts).await?;
        same(&self.get(&name, "target").await?, &body, "bytes")
    }

    async fn aborted_upload(&mut self) -> Outcome {
        let (name, key) = (self.bucket().await?, "aborted");
        let to = self.begin(&name, key, None).await?;
        self.part(&to, 1, &content(5 * MIB, 12)).await?;
        equal(self.uploads(&name).await?, vec![key.to_owned()], "uploads")?;
        self.s3
            .abort_multipart_upload()
            .bucket(&name)
            .key(key)
            .upload_id(&to.id)
            .send()
            .await?;
        equal(self.uploads(&name).await?, vec![], "uploads")?;
        let call = self
            .s3
            .list_parts()
            .bucket(&name)
            .key(key)
            .upload_id(&to.id);
        refused(call.send().await, "NoSuchUpload", 404)?;
        refused(
            self.s3.get_object().bucket(&name).key(key).send().await,
            "NoSuchKey",
            404,
        )
    }

    async fn attributes(&mut self) -> Outcome {
        let (name, body) = (self.bucket().await?, content(5 * MIB, 13));
        let call = |key: &str| {
            let call = self.s3.get_object_attributes().bucket(&name).key(key);
            let call = call
                .object_attributes(ObjectAttributes::Etag)
                .object_attributes(ObjectAttributes::Checksum);
            call.object_attributes(ObjectAttributes::ObjectParts)
                .object_attributes(ObjectAttributes::ObjectSize)
        };
        let tag = self.put(&name, "plain", &body).await?;
        let answer = call("plain").send().await?;
        equal(answer.object_size(), Some(body.len() as i64), "size")?;
        equal(
            answer.e_tag().map(|found| format!("\"{found}\"")),
            Some(tag),
            "ETag",
        )?;
        equal(
            answer
                .checksum()
                .is_some_and(|c| c.checksum_crc32().is_some()),
            true,
            "checksum",
        )?;
        let to = self
            .begin(&name, "parts", Some(ChecksumAlgorithm::Sha256))
            .await?;
        let parts = vec![
            self.part(&to, 1, &body).await?,
            self.part(&to, 2, b"end").await?,
        ];
        self.complete(&to, parts).await?;
        let answer = call("parts").send().await?;
        let parts = answer.object_parts().ok_or("no parts")?;
        equal(answer.object_size(), Some(body.len() as i64 + 3), "size")?;
        equal(
            (parts.total_parts_count(), parts.parts()[1].size()),
            (Some(2), Some(3)),
            "parts",
        )?;
        let kind = answer.checksum().and_then(|c| c.checksum_type());
        equal(kind, Some(&ChecksumType::Composite), "checksum type")
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let only = variable("S3_ONLY");
    macro_rules! run {
        ($($name:ident)*) => {$(
            if stringify!($name).contains(&only) {
                let s3 = connect(&variable("S3_ACCESS_KEY"), &variable("S3_SECRET_KEY"));
                let mut case = Case { s3, made: 0, name: stringify!($name) };
                match case.$name().await {
                    Ok(()) => println!("case {} ok", case.name),
                    Err(error) => println!("case {} FAILED: {}", case.name, format!("{error:?}").replace('\n', " ")),
                }
            }
        )*};
    }
    run!(
        buckets sizes refusals ranges metadata odd_keys listing copies deletes_together conditions checksums presigned
        large_object streamed parts_out_of_order parts_with_checksums parts_copied aborted_upload attributes
    );
}
