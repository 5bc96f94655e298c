//! Every error a client can see, in one place: code, status, message.
//!
//! Codes, statuses and wording follow the S3 API reference ("Error responses"), because clients
//! decide by the code: whether to retry, and which exception to raise.

use crate::http::chunked::BadChunk;
use crate::http::head::{Duplicate, HeadError};
use crate::http::target::BadTarget;
use crate::object::{BodyError, PART_SIZE_MIN, StoreError};
use std::borrow::Cow;

macro_rules! codes {
    ($($name:ident $status:literal $message:literal;)*) => {
        /// The `Code` element of an error document.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code { $($name,)* }

        impl Code {
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// The HTTP status it is sent with.
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            pub const fn message(self) -> &'static str {
                match self { $(Self::$name => $message,)* }
            }
        }
    };
}

codes! {
    AccessDenied 403 "Access Denied";
    AuthorizationHeaderMalformed 400 "The authorization header that you provided is not valid.";
    AuthorizationQueryParametersError 400 "The authorization query parameters that you provided are not valid.";
    BadDigest 400 "The Content-MD5 or checksum value that you specified did not match what the server received.";
    BadRequest 400 "The request is malformed.";
    BucketAlreadyExists 409 "The requested bucket name is not available. Bucket names are shared by all users of this store. Please select a different name and try again.";
    BucketAlreadyOwnedByYou 409 "The bucket that you tried to create already exists, and you own it.";
    BucketNotEmpty 409 "The bucket that you tried to delete is not empty.";
    EntityTooSmall 400 "Your proposed upload is smaller than the minimum allowed object size.";
    EntityTooLarge 400 "Your proposed upload exceeds the maximum allowed object size.";
    IllegalLocationConstraintException 400 "The specified location constraint does not match the region of this store.";
    IncompleteBody 400 "You did not provide the number of bytes specified by the Content-Length HTTP header.";
    InsufficientStorage 507 "The store is full. Earlier versions are kept; delete objects to make room.";
    InternalError 500 "An internal error occurred. Try again.";
    InvalidAccessKeyId 403 "The access key ID that you provided does not exist in our records.";
    InvalidArgument 400 "Invalid Argument";
    InvalidBucketName 400 "The specified bucket is not valid.";
    InvalidDigest 400 "The Content-MD5 or checksum value that you specified is not valid.";
    InvalidLocationConstraint 400 "The specified location constraint is not valid.";
    InvalidPart 400 "One or more of the specified parts could not be found. The part might not have been uploaded, or the specified entity tag might not have matched the part's entity tag.";
    InvalidPartNumber 416 "The requested part number is not satisfiable.";
    InvalidPartOrder 400 "The list of parts was not in ascending order. The parts list must be specified in order by part number.";
    InvalidRange 416 "The requested range is not satisfiable.";
    InvalidRequest 400 "Invalid Request";
    InvalidStorageClass 400 "The storage class that you specified is not valid.";
    InvalidToken 400 "The provided token is malformed or otherwise not valid.";
    InvalidURI 400 "The specified URI couldn't be parsed.";
    KeyTooLongError 400 "Your key is too long.";
    MalformedTrailerError 400 "The request contained trailing data that was not well-formed or did not conform to our published schema.";
    MalformedXML 400 "The XML that you provided was not well formed or did not validate against our published schema.";
    MaxMessageLengthExceeded 400 "Your request was too large.";
    MetadataTooLarge 400 "Your metadata headers exceed the maximum allowed metadata size.";
    MethodNotAllowed 405 "The specified method is not allowed against this resource.";
    MissingContentLength 411 "You must provide the Content-Length HTTP header.";
    MissingSecurityHeader 400 "Your request is missing a required header.";
    NoSuchBucket 404 "The specified bucket does not exist.";
    NoSuchBucketPolicy 404 "The bucket policy does not exist.";
    NoSuchCORSConfiguration 404 "The CORS configuration does not exist.";
    NoSuchConfiguration 404 "The specified configuration does not exist.";
    NoSuchLifecycleConfiguration 404 "The lifecycle configuration does not exist.";
    NoSuchPublicAccessBlockConfiguration 404 "The public access block configuration was not found.";
    NoSuchTagSet 404 "The TagSet does not exist.";
    NoSuchWebsiteConfiguration 404 "The specified bucket does not have a website configuration.";
    NoSuchUpload 404 "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload might have been aborted or completed.";
    NoSuchKey 404 "The specified key does not exist.";
    NoSuchVersion 404 "The specified version does not exist.";
    NotImplemented 501 "A header or query you provided implies functionality that is not implemented.";
    NotModified 304 "Not Modified";
    ObjectLockConfigurationNotFoundError 404 "Object Lock configuration does not exist for this bucket.";
    OperationAborted 409 "A conflicting conditional operation is currently in progress against this resource. Try again.";
    PreconditionFailed 412 "At least one of the preconditions that you specified did not hold.";
    ReplicationConfigurationNotFoundError 404 "The replication configuration was not found.";
    RequestHeaderSectionTooLarge 400 "Your request header and query parameters used to make the request exceed the maximum allowed size.";
    RequestTimeTooSkewed 403 "The difference between the request time and the server's time is too large.";
    RequestTimeout 400 "Your socket connection to the server was not read from or written to within the timeout period.";
    ServerSideEncryptionConfigurationNotFoundError 404 "The server side encryption configuration was not found.";
    ServiceUnavailable 503 "The store cannot answer this request at the moment. Try again.";
    SignatureDoesNotMatch 403 "The request signature that the server calculated does not match the signature that you provided. Check your secret access key and signing method.";
    SlowDown 503 "Please reduce your request rate.";
    UnexpectedContent 400 "This request does not support content.";
    XAmzContentSHA256Mismatch 400 "The provided x-amz-content-sha256 header does not match what was computed.";
}

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Error {
    pub code: Code,
    pub message: Cow<'static, str>,
    /// Further elements of the error document, such as `Region`.
    pub details: Vec<(&'static str, String)>,
    /// Header fields of the answer, which is all that the answer to HEAD has.
    pub fields: Vec<(&'static str, String)>,
    /// Why the server could not, for its log. Not told to the client.
    pub cause: Option<String>,
    /// The connection cannot go on: the border of the next request is not known.
    pub close: bool,
}

pub type S3Result<T> = Result<T, S3Error>;

impl S3Error {
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            fields: Vec::new(),
            cause: None,
            close: false,
        }
    }

    pub fn with(mut self, element: &'static str, value: impl Into<String>) -> Self {
        self.details.push((element, value.into()));
        self
    }

    /// Tells the client the region to sign for, as AWS does where a request went astray.
    pub fn in_region(mut self, region: &str) -> Self {
        self.fields.push(("x-amz-bucket-region", region.to_owned()));
        self
    }

    pub fn closing(mut self) -> Self {
        self.close = true;
        self
    }

    pub fn not_implemented(what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::NotImplemented, what)
    }

    pub fn invalid_argument(message: impl Into<Cow<'static, str>>, name: &'static str) -> Self {
        Self::new(Code::InvalidArgument, message).with("ArgumentName", name)
    }
}

impl From<Code> for S3Error {
    fn from(code: Code) -> Self {
        Self::new(code, code.message())
    }
}

impl From<HeadError> for S3Error {
    fn from(error: HeadError) -> Self {
        let code = match error {
            HeadError::TooLarge | HeadError::TooManyFields => Code::RequestHeaderSectionTooLarge,
            HeadError::Malformed(_)
            | HeadError::Version
            | HeadError::Framing(_)
            | HeadError::Expectation => Code::BadRequest,
        };
        Self::new(code, error.to_string()).closing()
    }
}

impl From<BadTarget> for S3Error {
    fn from(_: BadTarget) -> Self {
        Code::InvalidURI.into()
    }
}

impl From<Duplicate> for S3Error {
    fn from(_: Duplicate) -> Self {
        Self::new(
            Code::InvalidRequest,
            "A header that may be given once was given more than once.",
        )
    }
}

impl From<BadChunk> for BodyError {
    fn from(_: BadChunk) -> Self {
        BodyError::Malformed("the chunked transfer coding is malformed")
    }
}

impl From<BodyError> for S3Error {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::Incomplete => Self::from(Code::IncompleteBody).closing(),
            BodyError::Io => Self::from(Code::IncompleteBody).closing(),
            BodyError::Timeout => Self::from(Code::RequestTimeout).closing(),
            BodyError::Malformed(what) => Self::new(Code::IncompleteBody, what).closing(),
            BodyError::Trailer(what) => Self::new(Code::MalformedTrailerError, what).closing(),
            BodyError::Signature => Self::from(Code::SignatureDoesNotMatch).closing(),
            BodyError::Sha256 => Code::XAmzContentSHA256Mismatch.into(),
            BodyError::Md5 => Self::new(
                Code::BadDigest,
                "The Content-MD5 you specified did not match what we received.",
            ),
            BodyError::Checksum(name) => Self::new(
                Code::BadDigest,
                format!("The {name} you specified did not match the calculated checksum."),
            ),
            BodyError::ChecksumValue => Self::new(
                Code::InvalidRequest,
                "Value for the trailing checksum header is invalid.",
            ),
        }
    }
}

impl From<StoreError> for S3Error {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NoSuchBucket => Code::NoSuchBucket.into(),
            StoreError::NoSuchKey => Code::NoSuchKey.into(),
            // The caller turns it into BucketAlreadyOwnedByYou where the owner asks.
            StoreError::BucketAlreadyExists { .. } => Code::BucketAlreadyExists.into(),
            StoreError::BucketNotEmpty => Code::BucketNotEmpty.into(),
            StoreError::BucketBusy => Code::OperationAborted.into(),
            StoreError::SlowDown => Code::SlowDown.into(),
            StoreError::Full => Code::InsufficientStorage.into(),
            StoreError::TooLarge => Code::EntityTooLarge.into(),
            StoreError::PreconditionFailed => Code::PreconditionFailed.into(),
            StoreError::NoSuchUpload => Code::NoSuchUpload.into(),
            StoreError::InvalidPart { number } => {
                Self::from(Code::InvalidPart).with("PartNumber", number.to_string())
            }
            StoreError::PartTooSmall { number, size } => Self::from(Code::EntityTooSmall)
                .with("ProposedSize", size.to_string())
                .with("MinSizeAllowed", PART_SIZE_MIN.to_string())
                .with("PartNumber", number.to_string()),
            StoreError::SizeMismatch { size } => Self::new(
                Code::InvalidRequest,
                format!(
                    "The provided 'x-amz-mp-object-size' header does not match the size of the object, {size}."
                ),
            ),
            StoreError::ChecksumMismatch => Code::BadDigest.into(),
            StoreError::ChecksumKind => Self::new(
                Code::InvalidRequest,
                "The upload was created with another checksum algorithm or type.",
            ),
            StoreError::Unavailable { .. } | StoreError::ReadOnly { .. } => Self {
                cause: Some(error.to_string()),
                ..Code::ServiceUnavailable.into()
            },
            StoreError::Unreadable { .. } => Self {
                cause: Some(error.to_string()),
                ..Code::InternalError.into()
            },
            StoreError::Body(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_spelled_as_clients_know_it() {
        assert_eq!(Code::NoSuchKey.name(), "NoSuchKey");
        assert_eq!(Code::InvalidRange.status(), 416);
        assert_eq!(S3Error::from(StoreError::Full).code.status(), 507);
        assert!(S3Error::from(HeadError::Framing("x")).close);
    }
}
