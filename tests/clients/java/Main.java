// Every case that with_sdk.py names, by software.amazon.awssdk:s3; prints "case NAME ok" or
// "case NAME FAILED: why".

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Random;
import java.util.concurrent.CompletionException;
import java.util.function.Function;
import software.amazon.awssdk.auth.credentials.AwsBasicCredentials;
import software.amazon.awssdk.auth.credentials.AwsCredentialsProvider;
import software.amazon.awssdk.auth.credentials.StaticCredentialsProvider;
import software.amazon.awssdk.core.async.AsyncRequestBody;
import software.amazon.awssdk.core.async.AsyncResponseTransformer;
import software.amazon.awssdk.core.sync.RequestBody;
import software.amazon.awssdk.http.ContentStreamProvider;
import software.amazon.awssdk.awscore.retry.AwsRetryStrategy;
import software.amazon.awssdk.regions.Region;
import software.amazon.awssdk.services.s3.S3AsyncClient;
import software.amazon.awssdk.services.s3.S3Client;
import software.amazon.awssdk.services.s3.S3Configuration;
import software.amazon.awssdk.services.s3.crt.S3CrtHttpConfiguration;
import software.amazon.awssdk.services.s3.model.*;
import software.amazon.awssdk.services.s3.presigner.S3Presigner;

public class Main {
    static final int KIB = 1024, MIB = 1024 * 1024;
    static final URI ENDPOINT = URI.create(System.getenv("S3_ENDPOINT"));
    static final String BASE = System.getenv("S3_BUCKET"), MANY = System.getenv("S3_MANY");
    static final Path SCRATCH = Path.of(System.getenv("S3_SCRATCH"));
    static final String ACCESS = System.getenv("S3_ACCESS_KEY"), SECRET = System.getenv("S3_SECRET_KEY");
    static final List<ChecksumAlgorithm> ALGORITHMS = List.of(ChecksumAlgorithm.CRC32, ChecksumAlgorithm.CRC32_C,
            ChecksumAlgorithm.CRC64_NVME, ChecksumAlgorithm.SHA1, ChecksumAlgorithm.SHA256);

    static S3Client s3;
    static int made = 0;

    interface Body {
        void run() throws Exception;
    }

    static AwsCredentialsProvider credentials(String access, String secret) {
        return StaticCredentialsProvider.create(AwsBasicCredentials.create(access, secret));
    }

    static S3Client connect(String access, String secret) {
        return S3Client.builder().endpointOverride(ENDPOINT).region(Region.US_EAST_1).forcePathStyle(true)
                .credentialsProvider(credentials(access, secret))
                .overrideConfiguration(c -> c.retryStrategy(AwsRetryStrategy.doNotRetry())).build();
    }

    /** Java trusts what is in a store of its own format. */
    static void trust(String authority) throws Exception {
        KeyStore store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        try (InputStream in = Files.newInputStream(Path.of(authority))) {
            store.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(in));
        }
        Path path = SCRATCH.resolve("trusted.p12");
        try (OutputStream out = Files.newOutputStream(path)) {
            store.store(out, "trusted".toCharArray());
        }
        System.setProperty("javax.net.ssl.trustStore", path.toString());
        System.setProperty("javax.net.ssl.trustStorePassword", "trusted");
    }

    static void equal(Object found, Object wanted, String what) {
        if (!Objects.equals(found, wanted)) {
            Function<Object, String> shortened = value -> {
                String text = String.valueOf(value);
                return text.length() < 300 ? text : text.substring(0, 300) + "…";
            };
            throw new AssertionError(what + ": found " + shortened.apply(found) + ", wanted " + shortened.apply(wanted));
        }
    }

    static void same(byte[] found, byte[] wanted, String what) {
        if (!Arrays.equals(found, wanted)) {
            throw new AssertionError(what + ": " + found.length + " bytes are not the " + wanted.length + " wanted");
        }
    }

    static S3Exception refused(Body call, String code, int status) throws Exception {
        try {
            call.run();
        } catch (S3Exception error) {
            equal(error.statusCode(), status, "status of " + error.getMessage());
            String found = error.awsErrorDetails() == null ? null : error.awsErrorDetails().errorCode();
            if (code != null) {
                equal(found, code, "code of " + error.getMessage());
            }
            return error;
        }
        throw new AssertionError("not refused: wanted " + code);
    }

    static String bucket() {
        String name = BASE + "-" + ++made;
        s3.createBucket(b -> b.bucket(name));
        return name;
    }

    static byte[] content(int size, int seed) {
        byte[] body = new byte[size];
        new Random(seed * 1000L + size).nextBytes(body);
        return body;
    }

    static byte[] joined(byte[]... pieces) {
        byte[] out = new byte[Arrays.stream(pieces).mapToInt(piece -> piece.length).sum()];
        int at = 0;
        for (byte[] piece : pieces) {
            System.arraycopy(piece, 0, out, at, piece.length);
            at += piece.length;
        }
        return out;
    }

    static String etag(byte[] body) throws Exception {
        return '"' + HexFormat.of().formatHex(MessageDigest.getInstance("MD5").digest(body)) + '"';
    }

    static String put(String bucket, String key, byte[] body) {
        return s3.putObject(b -> b.bucket(bucket).key(key), RequestBody.fromBytes(body)).eTag();
    }

    static byte[] get(String bucket, String key) {
        return s3.getObjectAsBytes(b -> b.bucket(bucket).key(key)).asByteArray();
    }

    static HeadObjectResponse head(String bucket, String key) {
        return s3.headObject(b -> b.bucket(bucket).key(key).checksumMode(ChecksumMode.ENABLED));
    }

    /** The SDK asks for keys in their encoding, and decodes them. */
    static List<String> keysOf(String bucket) {
        return s3.listObjectsV2Paginator(b -> b.bucket(bucket).maxKeys(7)).contents().stream().map(S3Object::key).toList();
    }

    static final Comparator<String> BY_BYTES = (a, b) -> Arrays.compareUnsigned(
            a.getBytes(StandardCharsets.UTF_8), b.getBytes(StandardCharsets.UTF_8));

    /** Keys to be tried: every one, or only those that XML can hold. */
    static List<String> given(boolean all) throws Exception {
        List<String> found = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(System.getenv("S3_KEYS")))) {
            String[] fields = line.split(":");
            if (all || fields[0].equals("plain")) {
                found.add(new String(HexFormat.of().parseHex(fields[1]), StandardCharsets.UTF_8));
            }
        }
        found.sort(BY_BYTES);
        return found;
    }

    static void buckets() throws Exception {
        String name = bucket();
        equal(s3.listBuckets().buckets().stream().anyMatch(b -> b.name().equals(name)), true, "listed");
        s3.headBucket(b -> b.bucket(name));
        s3.getBucketLocation(b -> b.bucket(name));
        put(name, "k", new byte[1]);
        refused(() -> s3.deleteBucket(b -> b.bucket(name)), "BucketNotEmpty", 409);
        s3.deleteObject(b -> b.bucket(name).key("k"));
        s3.deleteBucket(b -> b.bucket(name));
        equal(refused(() -> s3.headBucket(b -> b.bucket(name)), null, 404) instanceof NoSuchBucketException, true, "its type");
    }

    static void sizes() throws Exception {
        String name = bucket();
        for (int size : new int[] {0, 1, 100 * KIB, 3 * MIB}) {
            String key = "size/" + size;
            byte[] body = content(size, 1);
            equal(put(name, key, body), etag(body), "ETag");
            same(get(name, key), body, key);
            HeadObjectResponse head = head(name, key);
            equal(head.contentLength(), (long) size, "length");
            equal(head.eTag(), etag(body), "ETag");
            equal(Duration.between(head.lastModified(), Instant.now()).abs().toSeconds() < 60, true, "age");
            s3.deleteObject(b -> b.bucket(name).key(key));
            refused(() -> get(name, key), "NoSuchKey", 404);
            refused(() -> head(name, key), null, 404);
        }
    }

    static void refusals() throws Exception {
        String name = bucket();
        equal(refused(() -> get(name, "k"), "NoSuchKey", 404) instanceof NoSuchKeyException, true, "NoSuchKey has its type");
        refused(() -> get(BASE + "-none", "k"), "NoSuchBucket", 404);
        try (S3Client wrong = connect(ACCESS, "wrong-" + SECRET); S3Client nobody = connect("NOSUCHKEY", "secret-of-no-one")) {
            refused(() -> wrong.getObjectAsBytes(b -> b.bucket(name).key("k")), "SignatureDoesNotMatch", 403);
            for (int size : new int[] {0, 100, 9 * MIB}) {
                RequestBody body = RequestBody.fromBytes(content(size, 2));
                refused(() -> wrong.putObject(b -> b.bucket(name).key("k"), body), "SignatureDoesNotMatch", 403);
            }
            refused(nobody::listBuckets, "InvalidAccessKeyId", 403);
        }
        equal(keysOf(name), List.of(), "nothing was stored");
    }

    static void ranges() throws Exception {
        String name = bucket();
        byte[] body = content(300 * KIB, 3);
        int last = body.length - 1;
        put(name, "r", body);
        Map<String, int[]> wanted = Map.of("bytes=0-0", new int[] {0, 0}, "bytes=1000-200000", new int[] {1000, 200000},
                "bytes=300000-", new int[] {300000, last}, "bytes=-7", new int[] {last - 6, last});
        for (Map.Entry<String, int[]> entry : wanted.entrySet()) {
            int from = entry.getValue()[0], to = entry.getValue()[1];
            var answer = s3.getObjectAsBytes(b -> b.bucket(name).key("r").range(entry.getKey()));
            same(answer.asByteArray(), Arrays.copyOfRange(body, from, to + 1), entry.getKey());
            equal(answer.response().contentRange(), "bytes " + from + "-" + to + "/" + body.length, "Content-Range");
        }
        refused(() -> s3.getObjectAsBytes(b -> b.bucket(name).key("r").range("bytes=400000-")), "InvalidRange", 416);
    }

    static void metadata() throws Exception {
        String name = bucket();
        Map<String, String> wanted = Map.of("one", "1", "with-dash", "a value");
        s3.putObject(b -> b.bucket(name).key("m").metadata(wanted).contentType("text/x-test").contentEncoding("gzip")
                .contentLanguage("de-CH").contentDisposition("attachment; filename=\"a b.txt\"")
                .cacheControl("max-age=17, private").expires(Instant.parse("2031-02-03T04:05:06Z")), RequestBody.fromString("abc"));
        HeadObjectResponse head = head(name, "m");
        equal(head.metadata(), wanted, "metadata");
        equal(List.of(head.contentType(), head.contentEncoding(), head.contentLanguage(), head.contentDisposition(),
                head.cacheControl(), head.expiresString()), List.of("text/x-test", "gzip", "de-CH",
                "attachment; filename=\"a b.txt\"", "max-age=17, private", "Mon, 03 Feb 2031 04:05:06 GMT"), "headers");
        var answer = s3.getObjectAsBytes(b -> b.bucket(name).key("m").responseContentType("x/y"));
        equal(answer.response().contentType(), "x/y", "response-content-type");
        same(answer.asByteArray(), "abc".getBytes(), "body");
    }

    static void oddKeys() throws Exception {
        String name = bucket();
        List<String> all = given(true);
        for (String key : all) {
            put(name, key, key.getBytes(StandardCharsets.UTF_8));
        }
        equal(keysOf(name), all, "listing");
        for (String key : all) {
            byte[] body = key.getBytes(StandardCharsets.UTF_8);
            same(get(name, key), body, key);
            head(name, key);
            s3.copyObject(b -> b.sourceBucket(name).sourceKey(key).destinationBucket(name).destinationKey("copy"));
            same(get(name, "copy"), body, "copy of " + key);
            s3.deleteObject(b -> b.bucket(name).key(key));
        }
        equal(keysOf(name), List.of("copy"), "listing after deletes");
    }

    static void listing() throws Exception {
        List<String> wanted = new ArrayList<>();
        for (int n = 0; n < 1100; n++) {
            wanted.add(String.format("%02d/%04d", n / 100, n));
        }
        for (Integer size : new Integer[] {null, 300}) {
            List<String> found = new ArrayList<>();
            int pages = 0;
            for (ListObjectsV2Response page : s3.listObjectsV2Paginator(b -> b.bucket(MANY).maxKeys(size))) {
                page.contents().forEach(item -> found.add(item.key()));
                pages++;
            }
            equal(found, wanted, "keys");
            equal(pages, size == null ? 2 : 4, "pages");
        }
        List<String> prefixes = s3.listObjectsV2Paginator(b -> b.bucket(MANY).delimiter("/").maxKeys(4))
                .commonPrefixes().stream().map(CommonPrefix::prefix).toList();
        equal(prefixes, List.of("00/", "01/", "02/", "03/", "04/", "05/", "06/", "07/", "08/", "09/", "10/"), "prefixes");
        ListObjectsV2Response page = s3.listObjectsV2(b -> b.bucket(MANY).prefix("05/05").startAfter("05/0597"));
        equal(page.contents().stream().map(S3Object::key).toList(), List.of("05/0598", "05/0599"), "start after");
        equal(page.keyCount(), 2, "key count");
        ListObjectsResponse old = s3.listObjects(b -> b.bucket(MANY).marker("10/1097"));
        equal(List.of(old.contents().size(), old.isTruncated()), List.of(2, false), "version 1");
    }

    static void copies() throws Exception {
        String name = bucket(), other = bucket(), key = "a b/ü+%";
        byte[] body = content(2 * MIB, 4);
        s3.putObject(b -> b.bucket(name).key(key).metadata(Map.of("n", "1")), RequestBody.fromBytes(body));
        var answer = s3.copyObject(b -> b.sourceBucket(name).sourceKey(key).destinationBucket(other).destinationKey("c"));
        equal(answer.copyObjectResult().eTag(), etag(body), "ETag");
        same(get(other, "c"), body, "copy");
        equal(head(other, "c").metadata(), Map.of("n", "1"), "metadata");
        s3.copyObject(b -> b.sourceBucket(name).sourceKey(key).destinationBucket(name).destinationKey(key)
                .metadataDirective(MetadataDirective.REPLACE).metadata(Map.of("n", "2")));
        equal(head(name, key).metadata(), Map.of("n", "2"), "replaced");
        refused(() -> s3.copyObject(b -> b.sourceBucket(name).sourceKey("none").destinationBucket(other).destinationKey("d")),
                "NoSuchKey", 404);
    }

    static void deletesTogether() throws Exception {
        String name = bucket();
        List<String> keys = given(false);
        for (String key : keys) {
            put(name, key, new byte[0]);
        }
        put(name, "stays", new byte[0]);
        keys.add("was-never-there");
        List<ObjectIdentifier> objects = keys.stream().map(key -> ObjectIdentifier.builder().key(key).build()).toList();
        var answer = s3.deleteObjects(b -> b.bucket(name).delete(d -> d.objects(objects)));
        equal(List.of(answer.deleted().size(), answer.errors().size()), List.of(keys.size(), 0), "deleted");
        equal(keysOf(name), List.of("stays"), "listing");
        ObjectIdentifier last = ObjectIdentifier.builder().key("stays").build();
        equal(s3.deleteObjects(b -> b.bucket(name).delete(d -> d.objects(last).quiet(true))).deleted(), List.of(), "quiet");
        equal(keysOf(name), List.of(), "listing");
    }

    static void conditions() throws Exception {
        String name = bucket();
        RequestBody updated = RequestBody.fromString("new");
        String first = s3.putObject(b -> b.bucket(name).key("k").ifNoneMatch("*"), RequestBody.fromString("old")).eTag();
        refused(() -> s3.putObject(b -> b.bucket(name).key("k").ifNoneMatch("*"), updated), "PreconditionFailed", 412);
        refused(() -> s3.putObject(b -> b.bucket(name).key("k").ifMatch("\"other\""), updated), "PreconditionFailed", 412);
        same(get(name, "k"), "old".getBytes(), "after refusals");
        String second = s3.putObject(b -> b.bucket(name).key("k").ifMatch(first), updated).eTag();
        same(get(name, "k"), "new".getBytes(), "after the match");
        refused(() -> s3.getObjectAsBytes(b -> b.bucket(name).key("k").ifMatch(first)), "PreconditionFailed", 412);
        refused(() -> s3.getObjectAsBytes(b -> b.bucket(name).key("k").ifNoneMatch(second)), null, 304);
    }

    static List<String> sums(String... values) {
        return Arrays.asList(values);
    }

    static void checksums() throws Exception {
        String name = bucket();
        for (ChecksumAlgorithm algorithm : ALGORITHMS) {
            for (int size : new int[] {0, 1, 100 * KIB, 2 * MIB}) {
                byte[] body = content(size, 5);
                var sent = s3.putObject(b -> b.bucket(name).key("k").checksumAlgorithm(algorithm), RequestBody.fromBytes(body));
                List<String> wanted = sums(sent.checksumCRC32(), sent.checksumCRC32C(), sent.checksumCRC64NVME(),
                        sent.checksumSHA1(), sent.checksumSHA256());
                for (int n = 0; n < 5; n++) {
                    equal(wanted.get(n) != null, ALGORITHMS.get(n) == algorithm, ALGORITHMS.get(n) + " for " + algorithm);
                }
                HeadObjectResponse head = head(name, "k");
                equal(sums(head.checksumCRC32(), head.checksumCRC32C(), head.checksumCRC64NVME(), head.checksumSHA1(),
                        head.checksumSHA256()), wanted, "checksum");
                equal(head.checksumType(), ChecksumType.FULL_OBJECT, "type");
                // The SDK verifies what it reads.
                var answer = s3.getObjectAsBytes(b -> b.bucket(name).key("k").checksumMode(ChecksumMode.ENABLED));
                same(answer.asByteArray(), body, algorithm.toString());
            }
        }
        refused(() -> s3.putObject(b -> b.bucket(name).key("wrong").checksumCRC32("AAAAAA=="), RequestBody.fromString("x")),
                "BadDigest", 400);
    }

    static byte[] curl(String... words) throws Exception {
        List<String> command = new ArrayList<>(List.of("curl", "-sS", "--fail-with-body"));
        command.addAll(List.of(words));
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        byte[] out = process.getInputStream().readAllBytes();
        if (process.waitFor() != 0) {
            throw new AssertionError("curl: " + new String(out, StandardCharsets.UTF_8));
        }
        return out;
    }

    static void presigned() throws Exception {
        String name = bucket(), key = "pre signed/ü+%";
        byte[] body = content(70 * KIB, 6);
        Path file = SCRATCH.resolve("presigned");
        Files.write(file, body);
        try (S3Presigner signer = S3Presigner.builder().endpointOverride(ENDPOINT).region(Region.US_EAST_1)
                .credentialsProvider(credentials(ACCESS, SECRET))
                .serviceConfiguration(S3Configuration.builder().pathStyleAccessEnabled(true).build()).build()) {
            String up = signer.presignPutObject(p -> p.signatureDuration(Duration.ofMinutes(1))
                    .putObjectRequest(b -> b.bucket(name).key(key))).url().toString();
            curl("-X", "PUT", "-H", "Content-Type:", "--data-binary", "@" + file, up);
            same(get(name, key), body, "presigned put");
            String down = signer.presignGetObject(p -> p.signatureDuration(Duration.ofMinutes(1))
                    .getObjectRequest(b -> b.bucket(name).key(key))).url().toString();
            same(curl(down), body, "presigned get");
            try {
                curl(down.replace("X-Amz-Expires=60", "X-Amz-Expires=61"));
            } catch (AssertionError error) {
                equal(error.getMessage().contains("SignatureDoesNotMatch"), true, error.getMessage());
                return;
            }
            throw new AssertionError("not refused: an altered address");
        }
    }

    static void throughAsync(S3AsyncClient client) throws Exception {
        String name = bucket();
        byte[] body = content(24 * MIB + 3, 7);
        try (client) {
            String tag = client.putObject(b -> b.bucket(name).key("large"), AsyncRequestBody.fromBytes(body)).join().eTag();
            equal(tag.matches("\".*-[345]\""), true, tag);
            same(get(name, "large"), body, "at once");
            same(client.getObject(b -> b.bucket(name).key("large"), AsyncResponseTransformer.toBytes()).join().asByteArray(),
                    body, "in parts");
            try {
                client.getObject(b -> b.bucket(name).key("none"), AsyncResponseTransformer.toBytes()).join();
            } catch (CompletionException error) {
                equal(error.getCause() instanceof NoSuchKeyException, true, "NoSuchKey: " + error);
                return;
            }
            throw new AssertionError("found what is not there");
        }
    }

    static void largeObject() throws Exception {
        throughAsync(S3AsyncClient.builder().endpointOverride(ENDPOINT).region(Region.US_EAST_1).forcePathStyle(true)
                .credentialsProvider(credentials(ACCESS, SECRET)).multipartEnabled(true).build());
    }

    static void largeObjectByCrt() throws Exception {
        // It looks into none of Java's trust stores.
        S3CrtHttpConfiguration http = S3CrtHttpConfiguration.builder().trustAllCertificatesEnabled(true).build();
        throughAsync(S3AsyncClient.crtBuilder().endpointOverride(ENDPOINT).region(Region.US_EAST_1).forcePathStyle(true)
                .credentialsProvider(credentials(ACCESS, SECRET)).httpConfiguration(http)
                .minimumPartSizeInBytes(5L * MIB).targetThroughputInGbps(0.5).maxConcurrency(4).build());
    }

    static void streamed() throws Exception {
        String name = bucket();
        byte[] body = content(11 * MIB, 8);
        ContentStreamProvider stream = () -> new ByteArrayInputStream(body);
        s3.putObject(b -> b.bucket(name).key("known"), RequestBody.fromContentProvider(stream, body.length, "x/y"));
        s3.putObject(b -> b.bucket(name).key("unknown"), RequestBody.fromContentProvider(stream, "x/y"));
        for (String key : List.of("known", "unknown")) {
            try (InputStream in = s3.getObject(b -> b.bucket(name).key(key))) {
                same(in.readAllBytes(), body, key);
            }
        }
    }

    record Upload(String bucket, String key, String id, ChecksumAlgorithm algorithm) {}

    static Upload begin(String bucket, String key, ChecksumAlgorithm algorithm) {
        var answer = s3.createMultipartUpload(b -> b.bucket(bucket).key(key).checksumAlgorithm(algorithm));
        return new Upload(bucket, key, answer.uploadId(), algorithm);
    }

    static CompletedPart part(Upload to, int number, byte[] body) throws Exception {
        var answer = s3.uploadPart(b -> b.bucket(to.bucket).key(to.key).uploadId(to.id).partNumber(number)
                .checksumAlgorithm(to.algorithm), RequestBody.fromBytes(body));
        equal(answer.eTag(), etag(body), "ETag of a part");
        return CompletedPart.builder().partNumber(number).eTag(answer.eTag()).checksumCRC32(answer.checksumCRC32())
                .checksumCRC32C(answer.checksumCRC32C()).checksumCRC64NVME(answer.checksumCRC64NVME())
                .checksumSHA1(answer.checksumSHA1()).checksumSHA256(answer.checksumSHA256()).build();
    }

    static String complete(Upload to, CompletedPart... parts) {
        return s3.completeMultipartUpload(b -> b.bucket(to.bucket).key(to.key).uploadId(to.id)
                .multipartUpload(m -> m.parts(parts))).eTag();
    }

    static List<String> uploadsOf(String bucket) {
        return s3.listMultipartUploadsPaginator(b -> b.bucket(bucket)).uploads().stream().map(MultipartUpload::key).toList();
    }

    static void partsOutOfOrder() throws Exception {
        String name = bucket(), key = "out of order/ü";
        byte[][] bodies = {content(5 * MIB, 9), content(10 * MIB + 1, 9), content(5 * MIB + 77, 9), content(10, 9)};
        Upload to = begin(name, key, null);
        CompletedPart[] parts = new CompletedPart[4];
        for (int n : new int[] {3, 1, 0, 2}) {
            parts[n] = part(to, n + 1, bodies[n]);
        }
        List<Long> sizes = s3.listPartsPaginator(b -> b.bucket(name).key(key).uploadId(to.id).maxParts(3))
                .parts().stream().map(Part::size).toList();
        equal(sizes, List.of(5L * MIB, 10L * MIB + 1, 5L * MIB + 77, 10L), "sizes of parts");
        equal(uploadsOf(name), List.of(key), "uploads");
        String tag = complete(to, parts);
        equal(tag.endsWith("-4\""), true, tag);
        equal(uploadsOf(name), List.of(), "uploads");
        same(get(name, key), joined(bodies), "bytes");
        var second = s3.getObjectAsBytes(b -> b.bucket(name).key(key).partNumber(2));
        same(second.asByteArray(), bodies[1], "part 2");
        equal(second.response().partsCount(), 4, "parts count");
    }

    static void partsWithChecksums() throws Exception {
        String name = bucket();
        for (ChecksumAlgorithm algorithm : ALGORITHMS) {
            String key = algorithm.toString();
            byte[] large = content(5 * MIB, 10), small = content(1000, 10);
            Upload to = begin(name, key, algorithm);
            CompletedPart second = part(to, 2, small), first = part(to, 1, large);
            complete(to, first, second);
            equal(head(name, key).checksumType(),
                    algorithm == ChecksumAlgorithm.CRC64_NVME ? ChecksumType.FULL_OBJECT : ChecksumType.COMPOSITE, key);
            same(get(name, key), joined(large, small), key);
        }
    }

    static void partsCopied() throws Exception {
        String name = bucket();
        byte[] body = content(11 * MIB, 11);
        put(name, "a source", body);
        Upload to = begin(name, "target", null);
        String[] ranges = {"bytes=0-" + (6 * MIB - 1), "bytes=" + 6 * MIB + "-" + (11 * MIB - 1)};
        CompletedPart[] parts = new CompletedPart[2];
        for (int n = 0; n < 2; n++) {
            int number = n + 1;
            String range = ranges[n];
            var answer = s3.uploadPartCopy(b -> b.sourceBucket(name).sourceKey("a source").copySourceRange(range)
                    .destinationBucket(name).destinationKey("target").uploadId(to.id).partNumber(number));
            parts[n] = CompletedPart.builder().partNumber(number).eTag(answer.copyPartResult().eTag()).build();
        }
        complete(to, parts);
        same(get(name, "target"), body, "bytes");
    }

    static void abortedUpload() throws Exception {
        String name = bucket(), key = "aborted";
        Upload to = begin(name, key, null);
        part(to, 1, content(5 * MIB, 12));
        equal(uploadsOf(name), List.of(key), "uploads");
        s3.abortMultipartUpload(b -> b.bucket(name).key(key).uploadId(to.id));
        equal(uploadsOf(name), List.of(), "uploads");
        refused(() -> s3.listParts(b -> b.bucket(name).key(key).uploadId(to.id)), "NoSuchUpload", 404);
        refused(() -> get(name, key), "NoSuchKey", 404);
    }

    static GetObjectAttributesResponse attributesOf(String bucket, String key) {
        return s3.getObjectAttributes(b -> b.bucket(bucket).key(key).objectAttributes(ObjectAttributes.E_TAG,
                ObjectAttributes.CHECKSUM, ObjectAttributes.OBJECT_PARTS, ObjectAttributes.OBJECT_SIZE));
    }

    static void attributes() throws Exception {
        String name = bucket();
        byte[] body = content(5 * MIB, 13);
        put(name, "plain", body);
        var answer = attributesOf(name, "plain");
        equal(answer.objectSize(), (long) body.length, "size");
        equal('"' + answer.eTag() + '"', etag(body), "ETag");
        equal(answer.checksum().checksumCRC32() != null, true, "checksum");
        Upload to = begin(name, "parts", ChecksumAlgorithm.SHA256);
        complete(to, part(to, 1, body), part(to, 2, "end".getBytes()));
        answer = attributesOf(name, "parts");
        equal(answer.objectSize(), body.length + 3L, "size");
        equal(answer.objectParts().totalPartsCount(), 2, "parts");
        equal(answer.objectParts().parts().get(1).size(), 3L, "size of a part");
        equal(answer.checksum().checksumType(), ChecksumType.COMPOSITE, "checksum type");
    }

    public static void main(String[] arguments) throws Exception {
        String authority = System.getenv("SSL_CERT_FILE"), only = System.getenv("S3_ONLY");
        if (authority != null) {
            trust(authority);
        }
        s3 = connect(ACCESS, SECRET);
        Map<String, Body> cases = new LinkedHashMap<>();
        cases.put("buckets", Main::buckets);
        cases.put("sizes", Main::sizes);
        cases.put("refusals", Main::refusals);
        cases.put("ranges", Main::ranges);
        cases.put("metadata", Main::metadata);
        cases.put("odd_keys", Main::oddKeys);
        cases.put("listing", Main::listing);
        cases.put("copies", Main::copies);
        cases.put("deletes_together", Main::deletesTogether);
        cases.put("conditions", Main::conditions);
        cases.put("checksums", Main::checksums);
        cases.put("presigned", Main::presigned);
        cases.put("large_object", Main::largeObject);
        cases.put("large_object_by_crt", Main::largeObjectByCrt);
        cases.put("streamed", Main::streamed);
        cases.put("parts_out_of_order", Main::partsOutOfOrder);
        cases.put("parts_with_checksums", Main::partsWithChecksums);
        cases.put("parts_copied", Main::partsCopied);
        cases.put("aborted_upload", Main::abortedUpload);
        cases.put("attributes", Main::attributes);
        for (Map.Entry<String, Body> entry : cases.entrySet()) {
            if (only != null && !entry.getKey().contains(only)) {
                continue;
            }
            try {
                entry.getValue().run();
                System.out.println("case " + entry.getKey() + " ok");
            } catch (Throwable error) {
                String why = error + " at " + Arrays.stream(error.getStackTrace())
                        .filter(frame -> frame.getClassName().startsWith("Main")).limit(2).toList();
                System.out.println("case " + entry.getKey() + " FAILED: " + why.replace('\n', ' '));
            }
        }
        System.exit(0);
    }
}
