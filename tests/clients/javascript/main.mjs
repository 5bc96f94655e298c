// Every case that with_sdk.py names, by @aws-sdk/client-s3; prints "case NAME ok" or "case NAME FAILED: why".

import { createHash } from "node:crypto";
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { Readable } from "node:stream";
import { isDeepStrictEqual } from "node:util";
import * as aws from "@aws-sdk/client-s3";
import { Upload } from "@aws-sdk/lib-storage";
import { getSignedUrl } from "@aws-sdk/s3-request-presigner";

const { S3_ENDPOINT, S3_ACCESS_KEY, S3_SECRET_KEY, S3_BUCKET, S3_MANY, S3_KEYS, S3_SCRATCH, S3_ONLY } = process.env;
const KIB = 1024, MIB = 1024 * 1024;

function connect(accessKeyId, secretAccessKey) {
  return new aws.S3Client({
    endpoint: S3_ENDPOINT, region: "us-east-1", credentials: { accessKeyId, secretAccessKey }, forcePathStyle: true, maxAttempts: 1,
  });
}

const client = connect(S3_ACCESS_KEY, S3_SECRET_KEY);

/** An operation by its name. */
const call = (name, input, by = client) => by.send(new aws[`${name}Command`](input));

function short(value) {
  const text = typeof value === "string" ? JSON.stringify(value) : String(JSON.stringify(value));
  return text.length > 300 ? `${text.slice(0, 300)}…` : text;
}

function equal(found, wanted, what) {
  if (!isDeepStrictEqual(found, wanted)) throw new Error(`${what}: found ${short(found)}, wanted ${short(wanted)}`);
}

function same(found, wanted, what) {
  if (Buffer.compare(Buffer.from(found), wanted)) throw new Error(`${what}: ${found.length} bytes are not the ${wanted.length} wanted`);
}

async function refused(promise, code, status) {
  let answer;
  try {
    answer = await promise;
  } catch (error) {
    equal([error.name, error.$metadata?.httpStatusCode], [code, status], `refusal (${error.message})`);
    return error;
  }
  throw new Error(`not refused: wanted ${code}, found ${short(answer.$metadata)}`);
}

let made = 0;
async function bucket() {
  const Bucket = `${S3_BUCKET}-${++made}`;
  await call("CreateBucket", { Bucket });
  return Bucket;
}

/** Bytes that depend on size and seed. */
function content(size, seed) {
  const body = Buffer.alloc(size);
  let state = (seed * 2654435761 + size) | 1;
  for (let n = 0; n < size; n++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    body[n] = state;
  }
  return body;
}

const etag = (body) => `"${createHash("md5").update(body).digest("hex")}"`;
const put = (Bucket, Key, Body, more = {}) => call("PutObject", { Bucket, Key, Body, ...more });
const read = async (answer) => Buffer.from(await answer.Body.transformToByteArray());
const get = async (Bucket, Key, more = {}) => read(await call("GetObject", { Bucket, Key, ...more }));
const byBytes = (a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b));

async function keysOf(Bucket, escaped = false) {
  const found = [];
  const more = escaped ? { EncodingType: "url" } : {};
  for await (const page of aws.paginateListObjectsV2({ client, pageSize: 7 }, { Bucket, ...more })) {
    for (const { Key } of page.Contents ?? []) found.push(escaped ? decodeURIComponent(Key.replaceAll("+", " ")) : Key);
  }
  return found;
}

/** Every key to be tried, and those of them that XML can hold. */
function given() {
  const all = [], plain = [];
  for (const line of readFileSync(S3_KEYS, "utf8").trim().split("\n")) {
    const [kind, hex] = line.split(":");
    const key = Buffer.from(hex, "hex").toString();
    all.push(key);
    if (kind === "plain") plain.push(key);
  }
  return { all: all.sort(byBytes), plain: plain.sort(byBytes) };
}

const ALGORITHMS = ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"];

async function part(place, PartNumber, Body, more = {}) {
  const answer = await call("UploadPart", { ...place, PartNumber, Body, ...more });
  equal(answer.ETag, etag(Body), "ETag of a part");
  const sums = Object.fromEntries(Object.entries(answer).filter(([name]) => /^Checksum(CRC|SHA)/.test(name)));
  return { PartNumber, ETag: answer.ETag, ...sums };
}

async function begin(Bucket, Key, more = {}) {
  const { UploadId } = await call("CreateMultipartUpload", { Bucket, Key, ...more });
  return { Bucket, Key, UploadId };
}

const complete = (place, Parts) => call("CompleteMultipartUpload", { ...place, MultipartUpload: { Parts } });
const uploadsOf = async (Bucket) => ((await call("ListMultipartUploads", { Bucket })).Uploads ?? []).map(({ Key }) => Key);
const curl = (...words) => execFileSync("curl", ["-sS", "--fail-with-body", ...words], { maxBuffer: 64 * MIB });

const cases = {
  async buckets() {
    const Bucket = await bucket();
    const listed = (await call("ListBuckets", {})).Buckets.map(({ Name }) => Name);
    equal(listed.includes(Bucket), true, "listed");
    await call("HeadBucket", { Bucket });
    await call("GetBucketLocation", { Bucket });
    await put(Bucket, "k", "x");
    await refused(call("DeleteBucket", { Bucket }), "BucketNotEmpty", 409);
    await call("DeleteObject", { Bucket, Key: "k" });
    await call("DeleteBucket", { Bucket });
    await refused(call("HeadBucket", { Bucket }), "NotFound", 404);
  },

  async sizes() {
    const Bucket = await bucket();
    for (const size of [0, 1, 100 * KIB, 3 * MIB]) {
      const Key = `size/${size}`, body = content(size, 1);
      equal((await put(Bucket, Key, body)).ETag, etag(body), "ETag");
      same(await get(Bucket, Key), body, Key);
      const head = await call("HeadObject", { Bucket, Key });
      equal([head.ContentLength, head.ETag], [size, etag(body)], "head");
      equal(Math.abs(Date.now() - head.LastModified) < 60_000, true, "age");
      await call("DeleteObject", { Bucket, Key });
      await refused(call("GetObject", { Bucket, Key }), "NoSuchKey", 404);
      await refused(call("HeadObject", { Bucket, Key }), "NotFound", 404);
    }
  },

  async refusals() {
    const Bucket = await bucket(), Key = "k";
    const error = await refused(call("GetObject", { Bucket, Key }), "NoSuchKey", 404);
    equal(error instanceof aws.NoSuchKey, true, "NoSuchKey has its type");
    await refused(call("GetObject", { Bucket: `${S3_BUCKET}-none`, Key }), "NoSuchBucket", 404);
    const wrong = connect(S3_ACCESS_KEY, `wrong-${S3_SECRET_KEY}`);
    await refused(call("GetObject", { Bucket, Key }, wrong), "SignatureDoesNotMatch", 403);
    for (const size of [0, 100, 9 * MIB]) {
      await refused(call("PutObject", { Bucket, Key, Body: content(size, 2) }, wrong), "SignatureDoesNotMatch", 403);
    }
    await refused(call("ListBuckets", {}, connect("NOSUCHKEY", "secret-of-no-one")), "InvalidAccessKeyId", 403);
    equal(await keysOf(Bucket), [], "nothing was stored");
  },

  async ranges() {
    const Bucket = await bucket(), Key = "r", body = content(300 * KIB, 3), last = body.length - 1;
    await put(Bucket, Key, body);
    for (const [Range, from, to] of [["bytes=0-0", 0, 0], ["bytes=1000-200000", 1000, 200000], ["bytes=300000-", 300000, last], ["bytes=-7", last - 6, last]]) {
      const answer = await call("GetObject", { Bucket, Key, Range });
      same(await read(answer), body.subarray(from, to + 1), Range);
      equal(answer.ContentRange, `bytes ${from}-${to}/${body.length}`, "Content-Range");
    }
    await refused(call("GetObject", { Bucket, Key, Range: "bytes=400000-" }), "InvalidRange", 416);
  },

  async metadata() {
    const Bucket = await bucket(), Key = "m";
    const headers = {
      Metadata: { one: "1", "with-dash": "a value" }, ContentType: "text/x-test", ContentEncoding: "gzip", ContentLanguage: "de-CH",
      ContentDisposition: 'attachment; filename="a b.txt"', CacheControl: "max-age=17, private",
    };
    await put(Bucket, Key, "abc", { ...headers, Expires: new Date("2031-02-03T04:05:06Z") });
    const head = await call("HeadObject", { Bucket, Key });
    equal(Object.fromEntries(Object.keys(headers).map((name) => [name, head[name]])), headers, "headers");
    equal(head.ExpiresString, "Mon, 03 Feb 2031 04:05:06 GMT", "Expires");
    const answer = await call("GetObject", { Bucket, Key, ResponseContentType: "x/y" });
    equal(answer.ContentType, "x/y", "response-content-type");
    same(await read(answer), Buffer.from("abc"), "body");
  },

  async odd_keys() {
    const Bucket = await bucket();
    const { all, plain } = given();
    for (const key of plain) await put(Bucket, key, key);
    equal(await keysOf(Bucket), plain, "listing");
    for (const key of all) await put(Bucket, key, key);
    equal(await keysOf(Bucket, true), all, "listing with encoding-type url");
    for (const key of all) {
      const Key = key;
      same(await get(Bucket, Key), Buffer.from(key), short(key));
      await call("HeadObject", { Bucket, Key });
      await call("CopyObject", { Bucket, Key: "copy", CopySource: encodeURIComponent(`${Bucket}/${key}`) });
      same(await get(Bucket, "copy"), Buffer.from(key), `copy of ${short(key)}`);
      await call("DeleteObject", { Bucket, Key });
    }
    equal(await keysOf(Bucket, true), ["copy"], "listing after deletes");
  },

  async listing() {
    const wanted = Array.from({ length: 1100 }, (_, n) => `${String(Math.floor(n / 100)).padStart(2, "0")}/${String(n).padStart(4, "0")}`);
    for (const [pageSize, count] of [[undefined, 2], [300, 4]]) {
      const found = [];
      let pages = 0;
      for await (const page of aws.paginateListObjectsV2({ client, pageSize }, { Bucket: S3_MANY })) {
        found.push(...page.Contents.map(({ Key }) => Key));
        pages++;
      }
      equal(found, wanted, "keys");
      equal(pages, count, "pages");
    }
    const prefixes = [];
    for await (const page of aws.paginateListObjectsV2({ client, pageSize: 4 }, { Bucket: S3_MANY, Delimiter: "/" })) {
      prefixes.push(...page.CommonPrefixes.map(({ Prefix }) => Prefix));
    }
    equal(prefixes, "00/ 01/ 02/ 03/ 04/ 05/ 06/ 07/ 08/ 09/ 10/".split(" "), "prefixes");
    const page = await call("ListObjectsV2", { Bucket: S3_MANY, Prefix: "05/05", StartAfter: "05/0597" });
    equal([page.Contents.map(({ Key }) => Key), page.KeyCount], [["05/0598", "05/0599"], 2], "start after");
    const old = await call("ListObjects", { Bucket: S3_MANY, Marker: "10/1097" });
    equal([old.Contents.length, old.IsTruncated], [2, false], "version 1");
  },

  async copies() {
    const Bucket = await bucket(), other = await bucket(), body = content(2 * MIB, 4), Key = "a b/ü+%";
    await put(Bucket, Key, body, { Metadata: { n: "1" } });
    const CopySource = encodeURIComponent(`${Bucket}/${Key}`);
    const answer = await call("CopyObject", { Bucket: other, Key: "c", CopySource });
    equal(answer.CopyObjectResult.ETag, etag(body), "ETag");
    same(await get(other, "c"), body, "copy");
    equal((await call("HeadObject", { Bucket: other, Key: "c" })).Metadata, { n: "1" }, "metadata");
    await call("CopyObject", { Bucket, Key, CopySource, MetadataDirective: "REPLACE", Metadata: { n: "2" } });
    equal((await call("HeadObject", { Bucket, Key })).Metadata, { n: "2" }, "replaced");
    await refused(call("CopyObject", { Bucket: other, Key: "d", CopySource: `${Bucket}/none` }), "NoSuchKey", 404);
  },

  async deletes_together() {
    const Bucket = await bucket();
    const { plain } = given();
    for (const key of plain) await put(Bucket, key, "");
    await put(Bucket, "stays", "");
    const Objects = ["was-never-there", ...plain].map((Key) => ({ Key }));
    const answer = await call("DeleteObjects", { Bucket, Delete: { Objects } });
    equal([answer.Deleted.length, answer.Errors], [Objects.length, undefined], "deleted");
    equal(await keysOf(Bucket), ["stays"], "listing");
    const quiet = await call("DeleteObjects", { Bucket, Delete: { Objects: [{ Key: "stays" }], Quiet: true } });
    equal(quiet.Deleted, undefined, "quiet");
    equal(await keysOf(Bucket), [], "listing");
  },

  async conditions() {
    const Bucket = await bucket(), Key = "k";
    const first = await put(Bucket, Key, "old", { IfNoneMatch: "*" });
    await refused(put(Bucket, Key, "new", { IfNoneMatch: "*" }), "PreconditionFailed", 412);
    await refused(put(Bucket, Key, "new", { IfMatch: etag("other") }), "PreconditionFailed", 412);
    same(await get(Bucket, Key), Buffer.from("old"), "after refusals");
    await put(Bucket, Key, "new", { IfMatch: first.ETag });
    same(await get(Bucket, Key), Buffer.from("new"), "after the match");
    await refused(call("GetObject", { Bucket, Key, IfMatch: first.ETag }), "PreconditionFailed", 412);
    // 304 is an error without a body, of which the SDK makes a name of its own.
    try {
      await call("GetObject", { Bucket, Key, IfNoneMatch: etag("new") });
    } catch (error) {
      equal(error.$metadata.httpStatusCode, 304, "not modified");
      return;
    }
    throw new Error("not refused: If-None-Match");
  },

  async checksums() {
    const Bucket = await bucket(), Key = "k";
    for (const ChecksumAlgorithm of ALGORITHMS) {
      const name = `Checksum${ChecksumAlgorithm}`;
      for (const size of [0, 1, 100 * KIB, 2 * MIB]) {
        const body = content(size, 5);
        // A stream is sent with its checksum in a trailer, a buffer with a header.
        for (const Body of [body, Readable.from(size ? [body] : [])]) {
          const sent = await put(Bucket, Key, Body, { ChecksumAlgorithm, ContentLength: size });
          const head = await call("HeadObject", { Bucket, Key, ChecksumMode: "ENABLED" });
          equal([typeof head[name], head[name], head.ChecksumType], ["string", sent[name], "FULL_OBJECT"], name);
          // The SDK verifies what it reads.
          const answer = await call("GetObject", { Bucket, Key, ChecksumMode: "ENABLED" });
          same(await read(answer), body, name);
          equal(answer[name], sent[name], name);
        }
      }
    }
    await refused(put(Bucket, "wrong", "x", { ChecksumCRC32: "AAAAAA==" }), "BadDigest", 400);
  },

  async presigned() {
    const Bucket = await bucket(), Key = "pre signed/ü+%", body = content(70 * KIB, 6), file = `${S3_SCRATCH}/presigned`;
    writeFileSync(file, body);
    const up = await getSignedUrl(client, new aws.PutObjectCommand({ Bucket, Key }), { expiresIn: 60 });
    curl("-X", "PUT", "-H", "Content-Type:", "--data-binary", `@${file}`, up);
    same(await get(Bucket, Key), body, "presigned put");
    const down = await getSignedUrl(client, new aws.GetObjectCommand({ Bucket, Key }), { expiresIn: 60 });
    same(curl(down), body, "presigned get");
    equal((await fetch(down.replace("X-Amz-Expires=60", "X-Amz-Expires=61"))).status, 403, "altered");
  },

  async large_object() {
    const Bucket = await bucket(), Key = "large", Body = content(24 * MIB + 3, 7);
    const answer = await new Upload({ client, params: { Bucket, Key, Body } }).done();
    equal(answer.ETag.slice(-3), '-5"', answer.ETag);
    same(await get(Bucket, Key), Body, "bytes");
  },

  async streamed() {
    const Bucket = await bucket(), Key = "streamed", body = content(11 * MIB, 8);
    const Body = Readable.from([body.subarray(0, 3 * MIB), body.subarray(3 * MIB)]);
    await new Upload({ client, params: { Bucket, Key, Body }, queueSize: 2 }).done();
    same(await get(Bucket, Key), body, "streamed");
  },

  async parts_out_of_order() {
    const Bucket = await bucket(), Key = "out of order/ü";
    const bodies = [5 * MIB, 10 * MIB + 1, 5 * MIB + 77, 10].map((size) => content(size, 9));
    const place = await begin(Bucket, Key), parts = [];
    for (const n of [3, 1, 0, 2]) parts[n] = await part(place, n + 1, bodies[n]);
    const listed = [];
    for await (const page of aws.paginateListParts({ client, pageSize: 3 }, place)) listed.push(...page.Parts.map(({ Size }) => Size));
    equal(listed, bodies.map(({ length }) => length), "sizes of parts");
    equal(await uploadsOf(Bucket), [Key], "uploads");
    const answer = await complete(place, parts);
    equal(answer.ETag.slice(-3), '-4"', answer.ETag);
    equal(await uploadsOf(Bucket), [], "uploads");
    same(await get(Bucket, Key), Buffer.concat(bodies), "bytes");
    const second = await call("GetObject", { Bucket, Key, PartNumber: 2 });
    same(await read(second), bodies[1], "part 2");
    equal(second.PartsCount, 4, "parts count");
  },

  async parts_with_checksums() {
    const Bucket = await bucket();
    for (const ChecksumAlgorithm of ALGORITHMS) {
      const Key = ChecksumAlgorithm, bodies = [content(5 * MIB, 10), content(1000, 10)];
      const place = await begin(Bucket, Key, { ChecksumAlgorithm });
      const second = await part(place, 2, bodies[1], { ChecksumAlgorithm });
      const first = await part(place, 1, bodies[0], { ChecksumAlgorithm });
      await complete(place, [first, second]);
      const head = await call("HeadObject", { Bucket, Key, ChecksumMode: "ENABLED" });
      equal(head.ChecksumType, Key === "CRC64NVME" ? "FULL_OBJECT" : "COMPOSITE", Key);
      same(await get(Bucket, Key), Buffer.concat(bodies), Key);
    }
  },

  async parts_copied() {
    const Bucket = await bucket(), Key = "target", body = content(11 * MIB, 11);
    await put(Bucket, "a source", body);
    const place = await begin(Bucket, Key), parts = [];
    for (const CopySourceRange of [`bytes=0-${6 * MIB - 1}`, `bytes=${6 * MIB}-${11 * MIB - 1}`]) {
      const PartNumber = parts.length + 1;
      const answer = await call("UploadPartCopy", { ...place, PartNumber, CopySource: `${Bucket}/a%20source`, CopySourceRange });
      parts.push({ PartNumber, ETag: answer.CopyPartResult.ETag });
    }
    await complete(place, parts);
    same(await get(Bucket, Key), body, "bytes");
  },

  async aborted_upload() {
    const Bucket = await bucket(), Key = "aborted";
    const place = await begin(Bucket, Key);
    await part(place, 1, content(5 * MIB, 12));
    equal(await uploadsOf(Bucket), [Key], "uploads");
    await call("AbortMultipartUpload", place);
    equal(await uploadsOf(Bucket), [], "uploads");
    await refused(call("ListParts", place), "NoSuchUpload", 404);
    await refused(call("GetObject", { Bucket, Key }), "NoSuchKey", 404);
  },

  async attributes() {
    const Bucket = await bucket(), body = content(5 * MIB, 13);
    const ObjectAttributes = ["ETag", "Checksum", "ObjectParts", "ObjectSize", "StorageClass"];
    await put(Bucket, "plain", body);
    let answer = await call("GetObjectAttributes", { Bucket, Key: "plain", ObjectAttributes });
    equal([answer.ObjectSize, `"${answer.ETag}"`, typeof answer.Checksum.ChecksumCRC32], [body.length, etag(body), "string"], "plain");
    const ChecksumAlgorithm = "SHA256", place = await begin(Bucket, "parts", { ChecksumAlgorithm });
    const first = await part(place, 1, body, { ChecksumAlgorithm });
    const second = await part(place, 2, Buffer.from("end"), { ChecksumAlgorithm });
    await complete(place, [first, second]);
    answer = await call("GetObjectAttributes", { Bucket, Key: "parts", ObjectAttributes });
    equal([answer.ObjectSize, answer.ObjectParts.TotalPartsCount, answer.ObjectParts.Parts[1].Size, answer.Checksum.ChecksumType],
      [body.length + 3, 2, 3, "COMPOSITE"], "parts");
  },
};

for (const [name, run] of Object.entries(cases)) {
  if (S3_ONLY && !name.includes(S3_ONLY)) continue;
  try {
    await run();
    console.log(`case ${name} ok`);
  } catch (error) {
    console.log(`case ${name} FAILED: ${String(error?.stack ?? error).replaceAll("\n", " ")}`);
  }
}
