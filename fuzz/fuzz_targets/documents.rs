#![no_main]
//! XML bodies: `DeleteObjects`, `CompleteMultipartUpload`, `CreateBucket`.

use ostrakon::s3::operations::{DocumentKind, is_document};
use ostrakon::s3::xml::{Document, Element, leaves, tree};

fn write(document: &mut Document, element: &Element) {
    if element.children.is_empty() {
        document.leaf(&element.name, &element.text);
        return;
    }
    document.open(&element.name);
    for child in &element.children {
        write(document, child);
    }
    document.close(&element.name);
}

fn simple(element: &Element) -> bool {
    element
        .name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric())
        && !element.text.contains('\0')
        && element.children.iter().all(simple)
}

fn depth(element: &Element) -> usize {
    1 + element.children.iter().map(depth).max().unwrap_or(0)
}

fn count(element: &Element) -> usize {
    1 + element.children.iter().map(count).sum::<usize>()
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((&kind, document)) = bytes.split_first() else {
        return;
    };
    let (kind, root) = match kind % 3 {
        0 => (DocumentKind::Delete, "Delete"),
        1 => (
            DocumentKind::CompleteMultipartUpload,
            "CompleteMultipartUpload",
        ),
        _ => (
            DocumentKind::CreateBucketConfiguration,
            "CreateBucketConfiguration",
        ),
    };
    let taken = is_document(kind, document);
    let _ = leaves(document, root);
    const ELEMENTS_MAX: usize = 50;
    let Ok(found) = tree(document, root, ELEMENTS_MAX) else {
        return;
    };
    assert!(depth(&found) <= 8 && count(&found) <= ELEMENTS_MAX);
    #[cfg(feature = "planted")]
    assert!(
        !found
            .children
            .iter()
            .any(|child| child.text.contains('\u{2028}')),
        "planted"
    );
    if simple(&found) && !found.children.is_empty() {
        let mut again = Document::new(root);
        for child in &found.children {
            write(&mut again, child);
        }
        let again = again.finish(root);
        assert_eq!(tree(&again, root, ELEMENTS_MAX).as_ref(), Ok(&found));
        assert_eq!(is_document(kind, &again), taken);
    }
});
