// Every case that with_sdk.py names, by aws-sdk-go-v2; prints "case NAME ok" or "case NAME FAILED: why".
package main

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"sort"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/feature/s3/manager"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

const (
	kib = 1024
	mib = 1024 * 1024
)

var (
	ctx      = context.Background()
	endpoint = os.Getenv("S3_ENDPOINT")
	base     = os.Getenv("S3_BUCKET")
	many     = os.Getenv("S3_MANY")
	client   = connect(os.Getenv("S3_ACCESS_KEY"), os.Getenv("S3_SECRET_KEY"))
	made     = 0
)

func connect(access, secret string) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String(endpoint),
		Credentials:  credentials.NewStaticCredentialsProvider(access, secret, ""),
		Region:       "us-east-1",
		Retryer:      aws.NopRetryer{},
		UsePathStyle: true,
		// As aws-sdk-go-v2/config would set them.
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenSupported,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenSupported,
	})
}

// A failure is a panic, which ends the case.
func ok[T any](answer T, err error) T {
	if err != nil {
		panic(err)
	}
	return answer
}

func equal(found, wanted any, what string) {
	a, b := fmt.Sprintf("%#v", found), fmt.Sprintf("%#v", wanted)
	if a != b {
		if len(a) > 300 {
			a = a[:300]
		}
		if len(b) > 300 {
			b = b[:300]
		}
		panic(fmt.Sprintf("%s: found %s, wanted %s", what, a, b))
	}
}

func same(found, wanted []byte, what string) {
	if !bytes.Equal(found, wanted) {
		panic(fmt.Sprintf("%s: %d bytes are not the %d wanted", what, len(found), len(wanted)))
	}
}

// The error must have this code, and this status unless it is 0.
func refused(err error, code string, status int) {
	if err == nil {
		panic("not refused: wanted " + code)
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		panic(err)
	}
	equal(api.ErrorCode(), code, "error code of "+err.Error())
	var response *smithyhttp.ResponseError
	if status != 0 && errors.As(err, &response) {
		equal(response.HTTPStatusCode(), status, "status of "+code)
	}
}

func bucket() *string {
	made++
	name := fmt.Sprintf("%s-%d", base, made)
	ok(client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name}))
	return &name
}

func content(size int, seed int64) []byte {
	body := make([]byte, size)
	rand.New(rand.NewSource(seed + int64(size)*1000)).Read(body)
	return body
}

func put(bucket *string, key string, body []byte) *s3.PutObjectOutput {
	return ok(client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: &key, Body: bytes.NewReader(body)}))
}

func get(bucket *string, key string) []byte {
	answer := ok(client.GetObject(ctx, &s3.GetObjectInput{Bucket: bucket, Key: &key}))
	defer answer.Body.Close()
	return ok(io.ReadAll(answer.Body))
}

func etag(body []byte) string { return fmt.Sprintf("\"%x\"", md5.Sum(body)) }

func keysOf(bucket *string, url bool) []string {
	input := &s3.ListObjectsV2Input{Bucket: bucket}
	if url {
		input.EncodingType = types.EncodingTypeUrl
	}
	found := []string{}
	pager := s3.NewListObjectsV2Paginator(client, input, func(o *s3.ListObjectsV2PaginatorOptions) { o.Limit = 7 })
	for pager.HasMorePages() {
		for _, item := range ok(pager.NextPage(ctx)).Contents {
			found = append(found, unescaped(*item.Key, url))
		}
	}
	return found
}

func unescaped(key string, escaped bool) string {
	if escaped {
		return ok(url.QueryUnescape(key))
	}
	return key
}

func buckets() {
	name := bucket()
	listed := false
	for _, item := range ok(client.ListBuckets(ctx, &s3.ListBucketsInput{})).Buckets {
		listed = listed || *item.Name == *name
	}
	equal(listed, true, "listed")
	ok(client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: name}))
	ok(client.GetBucketLocation(ctx, &s3.GetBucketLocationInput{Bucket: name}))
	put(name, "k", []byte("x"))
	_, err := client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: name})
	refused(err, "BucketNotEmpty", 409)
	ok(client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: name, Key: aws.String("k")}))
	ok(client.DeleteBucket(ctx, &s3.DeleteBucketInput{Bucket: name}))
	_, err = client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: name})
	refused(err, "NotFound", 404)
}

func sizes() {
	name := bucket()
	for _, size := range []int{0, 1, 100 * kib, 3 * mib} {
		key, body := fmt.Sprintf("size/%d", size), content(size, 1)
		equal(*put(name, key, body).ETag, etag(body), "etag")
		same(get(name, key), body, key)
		head := ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: &key}))
		equal(*head.ContentLength, int64(size), "length")
		equal(*head.ETag, etag(body), "etag")
		equal(time.Since(*head.LastModified).Abs() < time.Minute, true, "age")
		ok(client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: name, Key: &key}))
		_, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: &key})
		refused(err, "NoSuchKey", 404)
		_, err = client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: &key})
		refused(err, "NotFound", 404)
	}
}

func refusals() {
	name, key := bucket(), aws.String("k")
	_, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: key})
	refused(err, "NoSuchKey", 404)
	var typed *types.NoSuchKey
	equal(errors.As(err, &typed), true, "NoSuchKey has its type")
	_, err = client.GetObject(ctx, &s3.GetObjectInput{Bucket: aws.String(base + "-none"), Key: key})
	refused(err, "NoSuchBucket", 404)
	wrong := connect(os.Getenv("S3_ACCESS_KEY"), "wrong-"+os.Getenv("S3_SECRET_KEY"))
	_, err = wrong.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: key})
	refused(err, "SignatureDoesNotMatch", 403)
	for _, size := range []int{0, 100, 9 * mib} {
		_, err = wrong.PutObject(ctx, &s3.PutObjectInput{Bucket: name, Key: key, Body: bytes.NewReader(content(size, 2))})
		refused(err, "SignatureDoesNotMatch", 403)
	}
	_, err = connect("NOSUCHKEY", "secret-of-no-one").ListBuckets(ctx, &s3.ListBucketsInput{})
	refused(err, "InvalidAccessKeyId", 403)
	equal(keysOf(name, false), []string{}, "nothing was stored")
}

func ranges() {
	name, key := bucket(), "r"
	body := content(300*kib, 3)
	put(name, key, body)
	for _, c := range []struct {
		text        string
		first, last int
	}{{"bytes=0-0", 0, 0}, {"bytes=1000-200000", 1000, 200000}, {"bytes=300000-", 300000, len(body) - 1}, {"bytes=-7", len(body) - 7, len(body) - 1}} {
		answer := ok(client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: &key, Range: &c.text}))
		same(ok(io.ReadAll(answer.Body)), body[c.first:c.last+1], c.text)
		equal(*answer.ContentRange, fmt.Sprintf("bytes %d-%d/%d", c.first, c.last, len(body)), "Content-Range")
	}
	_, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: &key, Range: aws.String("bytes=400000-")})
	refused(err, "InvalidRange", 416)
}

func metadata() {
	name, key := bucket(), "m"
	expires := time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)
	wanted := map[string]string{"one": "1", "with-dash": "a value"}
	ok(client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: name, Key: &key, Body: strings.NewReader("abc"), Metadata: wanted,
		ContentType: aws.String("text/x-test"), ContentEncoding: aws.String("gzip"), ContentLanguage: aws.String("de-CH"),
		ContentDisposition: aws.String(`attachment; filename="a b.txt"`), CacheControl: aws.String("max-age=17, private"),
		Expires: &expires,
	}))
	head := ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: &key}))
	equal(head.Metadata, wanted, "metadata")
	equal([]string{*head.ContentType, *head.ContentEncoding, *head.ContentLanguage, *head.ContentDisposition, *head.CacheControl, *head.ExpiresString},
		[]string{"text/x-test", "gzip", "de-CH", `attachment; filename="a b.txt"`, "max-age=17, private", "Mon, 03 Feb 2031 04:05:06 GMT"}, "headers")
	answer := ok(client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: &key, ResponseContentType: aws.String("x/y")}))
	equal(*answer.ContentType, "x/y", "response-content-type")
	same(ok(io.ReadAll(answer.Body)), []byte("abc"), "body")
}

// (every key, those of them that XML can hold)
func given() (all, plain []string) {
	for _, line := range strings.Fields(string(ok(os.ReadFile(os.Getenv("S3_KEYS"))))) {
		kind, text, _ := strings.Cut(line, ":")
		key := string(ok(hex.DecodeString(text)))
		all = append(all, key)
		if kind == "plain" {
			plain = append(plain, key)
		}
	}
	sort.Strings(all)
	sort.Strings(plain)
	return
}

func oddKeys() {
	name := bucket()
	all, plain := given()
	for _, key := range plain {
		put(name, key, []byte(key))
	}
	equal(keysOf(name, false), plain, "listing")
	for _, key := range all {
		put(name, key, []byte(key))
	}
	equal(keysOf(name, true), all, "listing with encoding-type url")
	for _, key := range all {
		same(get(name, key), []byte(key), fmt.Sprintf("%q", key))
		ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: &key}))
		source := *name + "/" + url.QueryEscape(key)
		ok(client.CopyObject(ctx, &s3.CopyObjectInput{Bucket: name, Key: aws.String("copy"), CopySource: &source}))
		same(get(name, "copy"), []byte(key), fmt.Sprintf("copy of %q", key))
		ok(client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: name, Key: &key}))
	}
	equal(keysOf(name, true), []string{"copy"}, "listing after deletes")
}

func listing() {
	for _, size := range []int32{0, 300} {
		pages, keys := 0, 0
		pager := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &many},
			func(o *s3.ListObjectsV2PaginatorOptions) { o.Limit = size })
		for pager.HasMorePages() {
			for _, item := range ok(pager.NextPage(ctx)).Contents {
				equal(*item.Key, fmt.Sprintf("%02d/%04d", keys/100, keys), "key")
				keys++
			}
			pages++
		}
		equal(keys, 1100, "keys")
		equal(pages, map[int32]int{0: 2, 300: 4}[size], "pages")
	}
	prefixes := []string{}
	pager := s3.NewListObjectsV2Paginator(client, &s3.ListObjectsV2Input{Bucket: &many, Delimiter: aws.String("/")},
		func(o *s3.ListObjectsV2PaginatorOptions) { o.Limit = 4 })
	for pager.HasMorePages() {
		for _, item := range ok(pager.NextPage(ctx)).CommonPrefixes {
			prefixes = append(prefixes, *item.Prefix)
		}
	}
	equal(prefixes, strings.Fields("00/ 01/ 02/ 03/ 04/ 05/ 06/ 07/ 08/ 09/ 10/"), "prefixes")
	page := ok(client.ListObjectsV2(ctx, &s3.ListObjectsV2Input{Bucket: &many, Prefix: aws.String("05/05"), StartAfter: aws.String("05/0597")}))
	equal([]any{len(page.Contents), *page.Contents[0].Key, *page.KeyCount}, []any{2, "05/0598", int32(2)}, "start after")
	old := ok(client.ListObjects(ctx, &s3.ListObjectsInput{Bucket: &many, Marker: aws.String("10/1097")}))
	equal([]any{len(old.Contents), *old.IsTruncated}, []any{2, false}, "version 1")
}

func copies() {
	name, other := bucket(), bucket()
	body := content(2*mib, 4)
	ok(client.PutObject(ctx, &s3.PutObjectInput{Bucket: name, Key: aws.String("a b/ü+%"), Body: bytes.NewReader(body), Metadata: map[string]string{"n": "1"}}))
	source := *name + "/" + url.QueryEscape("a b/ü+%")
	answer := ok(client.CopyObject(ctx, &s3.CopyObjectInput{Bucket: other, Key: aws.String("c"), CopySource: &source}))
	equal(*answer.CopyObjectResult.ETag, etag(body), "etag")
	same(get(other, "c"), body, "copy")
	equal(ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: other, Key: aws.String("c")})).Metadata, map[string]string{"n": "1"}, "metadata")
	ok(client.CopyObject(ctx, &s3.CopyObjectInput{Bucket: name, Key: aws.String("a b/ü+%"), CopySource: &source,
		MetadataDirective: types.MetadataDirectiveReplace, Metadata: map[string]string{"n": "2"}}))
	equal(ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: aws.String("a b/ü+%")})).Metadata, map[string]string{"n": "2"}, "replaced")
	_, err := client.CopyObject(ctx, &s3.CopyObjectInput{Bucket: other, Key: aws.String("d"), CopySource: aws.String(*name + "/none")})
	refused(err, "NoSuchKey", 404)
}

func deletesTogether() {
	name := bucket()
	_, plain := given()
	objects := []types.ObjectIdentifier{{Key: aws.String("was-never-there")}}
	for _, key := range plain {
		put(name, key, nil)
		objects = append(objects, types.ObjectIdentifier{Key: aws.String(key)})
	}
	put(name, "stays", nil)
	answer := ok(client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: name, Delete: &types.Delete{Objects: objects}}))
	equal([]int{len(answer.Deleted), len(answer.Errors)}, []int{len(objects), 0}, "deleted")
	equal(keysOf(name, false), []string{"stays"}, "listing")
	answer = ok(client.DeleteObjects(ctx, &s3.DeleteObjectsInput{Bucket: name,
		Delete: &types.Delete{Objects: []types.ObjectIdentifier{{Key: aws.String("stays")}}, Quiet: aws.Bool(true)}}))
	equal(len(answer.Deleted), 0, "quiet")
	equal(keysOf(name, false), []string{}, "listing")
}

func conditions() {
	name, key := bucket(), aws.String("k")
	try := func(input s3.PutObjectInput) error {
		input.Bucket, input.Key, input.Body = name, key, strings.NewReader("new")
		_, err := client.PutObject(ctx, &input)
		return err
	}
	first := ok(client.PutObject(ctx, &s3.PutObjectInput{Bucket: name, Key: key, Body: strings.NewReader("old"), IfNoneMatch: aws.String("*")}))
	refused(try(s3.PutObjectInput{IfNoneMatch: aws.String("*")}), "PreconditionFailed", 412)
	refused(try(s3.PutObjectInput{IfMatch: aws.String(etag([]byte("other")))}), "PreconditionFailed", 412)
	same(get(name, "k"), []byte("old"), "after refusals")
	ok(0, try(s3.PutObjectInput{IfMatch: first.ETag}))
	same(get(name, "k"), []byte("new"), "after the match")
	_, err := client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: key, IfMatch: first.ETag})
	refused(err, "PreconditionFailed", 412)
	_, err = client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: key, IfNoneMatch: aws.String(etag([]byte("new")))})
	var response *smithyhttp.ResponseError
	equal(errors.As(err, &response) && response.HTTPStatusCode() == 304, true, "not modified")
}

var algorithms = []types.ChecksumAlgorithm{
	types.ChecksumAlgorithmCrc32, types.ChecksumAlgorithmCrc32c, types.ChecksumAlgorithmCrc64nvme,
	types.ChecksumAlgorithmSha1, types.ChecksumAlgorithmSha256,
}

func checksums() {
	name, key := bucket(), aws.String("k")
	for _, algorithm := range algorithms {
		for _, size := range []int{0, 1, 100 * kib, 2 * mib} {
			body := content(size, 5)
			// Not to be rewound: the checksum comes in a trailer over TLS, in a header otherwise.
			sent := ok(client.PutObject(ctx, &s3.PutObjectInput{Bucket: name, Key: key, Body: bytes.NewReader(body), ChecksumAlgorithm: algorithm}))
			head := ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: key, ChecksumMode: types.ChecksumModeEnabled}))
			values := func(a, b, c, d, e *string) string {
				for n, value := range []*string{a, b, c, d, e} {
					equal(value != nil, algorithms[n] == algorithm, fmt.Sprintf("%v for %v", algorithms[n], algorithm))
					if value != nil {
						return *value
					}
				}
				return ""
			}
			equal(values(head.ChecksumCRC32, head.ChecksumCRC32C, head.ChecksumCRC64NVME, head.ChecksumSHA1, head.ChecksumSHA256),
				values(sent.ChecksumCRC32, sent.ChecksumCRC32C, sent.ChecksumCRC64NVME, sent.ChecksumSHA1, sent.ChecksumSHA256), "checksum")
			equal(head.ChecksumType, types.ChecksumTypeFullObject, "type")
			// The SDK verifies what it reads.
			answer := ok(client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: key, ChecksumMode: types.ChecksumModeEnabled}))
			same(ok(io.ReadAll(answer.Body)), body, string(algorithm))
		}
	}
	_, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: name, Key: aws.String("wrong"), Body: strings.NewReader("x"), ChecksumCRC32: aws.String("AAAAAA==")})
	refused(err, "BadDigest", 400)
}

// What curl prints, given the address and headers that the SDK signed.
func curl(method, address string, headers http.Header, given string) []byte {
	words := []string{"-sS", "--fail-with-body", "-X", method, address}
	for name, values := range headers {
		if name != "Host" {
			words = append(words, "-H", name+": "+values[0])
		}
	}
	if method == "PUT" {
		words = append(words, "--data-binary", "@"+given, "-H", "Content-Type:")
	}
	command := exec.Command("curl", words...)
	out, err := command.CombinedOutput()
	if err != nil {
		panic(fmt.Sprintf("curl: %v: %s", err, out))
	}
	return out
}

func presigned() {
	name, key := bucket(), aws.String("pre signed/ü+%")
	signer := s3.NewPresignClient(client)
	body := content(70*kib, 6)
	file := os.Getenv("S3_SCRATCH") + "/presigned"
	ok(0, os.WriteFile(file, body, 0o600))
	request := ok(signer.PresignPutObject(ctx, &s3.PutObjectInput{Bucket: name, Key: key}, s3.WithPresignExpires(time.Minute)))
	curl("PUT", request.URL, request.SignedHeader, file)
	same(get(name, *key), body, "presigned put")
	request = ok(signer.PresignGetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: key}, s3.WithPresignExpires(time.Minute)))
	same(curl("GET", request.URL, request.SignedHeader, ""), body, "presigned get")
	answer := ok(http.Get(strings.Replace(request.URL, "X-Amz-Expires=60", "X-Amz-Expires=61", 1)))
	equal(answer.StatusCode, 403, "altered")
}

func largeObject() {
	name, key := bucket(), aws.String("large")
	body := content(24*mib+3, 7)
	answer := ok(manager.NewUploader(client).Upload(ctx, &s3.PutObjectInput{Bucket: name, Key: key, Body: bytes.NewReader(body)}))
	equal(strings.HasSuffix(*answer.ETag, `-5"`), true, *answer.ETag)
	buffer := manager.NewWriteAtBuffer(nil)
	ok(manager.NewDownloader(client).Download(ctx, buffer, &s3.GetObjectInput{Bucket: name, Key: key}))
	same(buffer.Bytes(), body, "by the downloader")
	same(get(name, "large"), body, "at once")
}

func streamed() {
	name, key := bucket(), aws.String("streamed")
	body := content(11*mib, 8)
	reader := io.MultiReader(bytes.NewReader(body[:3*mib]), bytes.NewReader(body[3*mib:]))
	ok(manager.NewUploader(client).Upload(ctx, &s3.PutObjectInput{Bucket: name, Key: key, Body: reader}))
	same(get(name, "streamed"), body, "streamed")
}

func begin(bucket *string, key string, algorithm types.ChecksumAlgorithm) *string {
	return ok(client.CreateMultipartUpload(ctx, &s3.CreateMultipartUploadInput{Bucket: bucket, Key: &key, ChecksumAlgorithm: algorithm})).UploadId
}

func part(bucket *string, key string, upload *string, number int32, body []byte, algorithm types.ChecksumAlgorithm) types.CompletedPart {
	answer := ok(client.UploadPart(ctx, &s3.UploadPartInput{Bucket: bucket, Key: &key, UploadId: upload, PartNumber: &number,
		Body: bytes.NewReader(body), ChecksumAlgorithm: algorithm}))
	equal(*answer.ETag, etag(body), "etag of a part")
	return types.CompletedPart{PartNumber: &number, ETag: answer.ETag, ChecksumCRC32: answer.ChecksumCRC32, ChecksumCRC32C: answer.ChecksumCRC32C,
		ChecksumCRC64NVME: answer.ChecksumCRC64NVME, ChecksumSHA1: answer.ChecksumSHA1, ChecksumSHA256: answer.ChecksumSHA256}
}

func complete(bucket *string, key string, upload *string, parts ...types.CompletedPart) *s3.CompleteMultipartUploadOutput {
	return ok(client.CompleteMultipartUpload(ctx, &s3.CompleteMultipartUploadInput{Bucket: bucket, Key: &key, UploadId: upload,
		MultipartUpload: &types.CompletedMultipartUpload{Parts: parts}}))
}

func uploadsOf(bucket *string) []string {
	found := []string{}
	pager := s3.NewListMultipartUploadsPaginator(client, &s3.ListMultipartUploadsInput{Bucket: bucket})
	for pager.HasMorePages() {
		for _, item := range ok(pager.NextPage(ctx)).Uploads {
			found = append(found, *item.Key)
		}
	}
	return found
}

func partsOutOfOrder() {
	name, key := bucket(), "out of order/ü"
	bodies := [][]byte{content(5*mib, 9), content(10*mib+1, 9), content(5*mib+77, 9), content(10, 9)}
	upload := begin(name, key, "")
	parts := make([]types.CompletedPart, 4)
	for _, n := range []int{3, 1, 0, 2} {
		parts[n] = part(name, key, upload, int32(n+1), bodies[n], "")
	}
	sizes := []int64{}
	pager := s3.NewListPartsPaginator(client, &s3.ListPartsInput{Bucket: name, Key: &key, UploadId: upload},
		func(o *s3.ListPartsPaginatorOptions) { o.Limit = 3 })
	for pager.HasMorePages() {
		for _, item := range ok(pager.NextPage(ctx)).Parts {
			sizes = append(sizes, *item.Size)
		}
	}
	equal(sizes, []int64{5 * mib, 10*mib + 1, 5*mib + 77, 10}, "sizes of parts")
	equal(uploadsOf(name), []string{key}, "uploads")
	answer := complete(name, key, upload, parts...)
	equal(strings.HasSuffix(*answer.ETag, `-4"`), true, *answer.ETag)
	equal(uploadsOf(name), []string{}, "uploads")
	same(get(name, key), bytes.Join(bodies, nil), "bytes")
	second := ok(client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: &key, PartNumber: aws.Int32(2)}))
	same(ok(io.ReadAll(second.Body)), bodies[1], "part 2")
	equal(*second.PartsCount, int32(4), "parts count")
}

func partsWithChecksums() {
	name := bucket()
	for _, algorithm := range algorithms {
		key := string(algorithm)
		bodies := [][]byte{content(5*mib, 10), content(1000, 10)}
		upload := begin(name, key, algorithm)
		second := part(name, key, upload, 2, bodies[1], algorithm)
		first := part(name, key, upload, 1, bodies[0], algorithm)
		complete(name, key, upload, first, second)
		head := ok(client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: name, Key: &key, ChecksumMode: types.ChecksumModeEnabled}))
		wanted := types.ChecksumTypeComposite
		if algorithm == types.ChecksumAlgorithmCrc64nvme {
			wanted = types.ChecksumTypeFullObject
		}
		equal(head.ChecksumType, wanted, key)
		same(get(name, key), bytes.Join(bodies, nil), key)
	}
}

func partsCopied() {
	name, key := bucket(), "target"
	body := content(11*mib, 11)
	put(name, "a source", body)
	upload := begin(name, key, "")
	parts := []types.CompletedPart{}
	for n, text := range []string{fmt.Sprintf("bytes=0-%d", 6*mib-1), fmt.Sprintf("bytes=%d-%d", 6*mib, 11*mib-1)} {
		number := int32(n + 1)
		answer := ok(client.UploadPartCopy(ctx, &s3.UploadPartCopyInput{Bucket: name, Key: &key, UploadId: upload, PartNumber: &number,
			CopySource: aws.String(*name + "/a%20source"), CopySourceRange: aws.String(text)}))
		parts = append(parts, types.CompletedPart{PartNumber: &number, ETag: answer.CopyPartResult.ETag})
	}
	complete(name, key, upload, parts...)
	same(get(name, key), body, "bytes")
}

func abortedUpload() {
	name, key := bucket(), "aborted"
	upload := begin(name, key, "")
	part(name, key, upload, 1, content(5*mib, 12), "")
	equal(uploadsOf(name), []string{key}, "uploads")
	ok(client.AbortMultipartUpload(ctx, &s3.AbortMultipartUploadInput{Bucket: name, Key: &key, UploadId: upload}))
	equal(uploadsOf(name), []string{}, "uploads")
	_, err := client.ListParts(ctx, &s3.ListPartsInput{Bucket: name, Key: &key, UploadId: upload})
	refused(err, "NoSuchUpload", 404)
	_, err = client.GetObject(ctx, &s3.GetObjectInput{Bucket: name, Key: &key})
	refused(err, "NoSuchKey", 404)
}

func attributes() {
	name := bucket()
	body := content(5*mib, 13)
	wanted := []types.ObjectAttributes{types.ObjectAttributesEtag, types.ObjectAttributesChecksum, types.ObjectAttributesObjectParts,
		types.ObjectAttributesObjectSize, types.ObjectAttributesStorageClass}
	put(name, "plain", body)
	answer := ok(client.GetObjectAttributes(ctx, &s3.GetObjectAttributesInput{Bucket: name, Key: aws.String("plain"), ObjectAttributes: wanted}))
	equal([]any{*answer.ObjectSize, "\"" + *answer.ETag + "\"", answer.Checksum.ChecksumCRC32 != nil}, []any{int64(len(body)), etag(body), true}, "plain")
	upload := begin(name, "parts", types.ChecksumAlgorithmSha256)
	first := part(name, "parts", upload, 1, body, types.ChecksumAlgorithmSha256)
	second := part(name, "parts", upload, 2, []byte("end"), types.ChecksumAlgorithmSha256)
	complete(name, "parts", upload, first, second)
	answer = ok(client.GetObjectAttributes(ctx, &s3.GetObjectAttributesInput{Bucket: name, Key: aws.String("parts"), ObjectAttributes: wanted}))
	equal([]any{*answer.ObjectSize, *answer.ObjectParts.TotalPartsCount, *answer.ObjectParts.Parts[1].Size, answer.Checksum.ChecksumType},
		[]any{int64(len(body) + 3), int32(2), int64(3), types.ChecksumTypeComposite}, "parts")
}

func main() {
	for _, c := range []struct {
		name string
		run  func()
	}{
		{"buckets", buckets}, {"sizes", sizes}, {"refusals", refusals}, {"ranges", ranges}, {"metadata", metadata},
		{"odd_keys", oddKeys}, {"listing", listing}, {"copies", copies}, {"deletes_together", deletesTogether},
		{"conditions", conditions}, {"checksums", checksums}, {"presigned", presigned}, {"large_object", largeObject},
		{"streamed", streamed}, {"parts_out_of_order", partsOutOfOrder}, {"parts_with_checksums", partsWithChecksums},
		{"parts_copied", partsCopied}, {"aborted_upload", abortedUpload}, {"attributes", attributes},
	} {
		if !strings.Contains(c.name, os.Getenv("S3_ONLY")) {
			continue
		}
		func() {
			defer func() {
				if why := recover(); why != nil {
					fmt.Printf("case %s FAILED: %s\n", c.name, strings.ReplaceAll(fmt.Sprint(why), "\n", " "))
				} else {
					fmt.Printf("case %s ok\n", c.name)
				}
			}()
			c.run()
		}()
	}
}
