//! XML documents of S3: written for answers, read (within limits) from requests.

use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};
use quick_xml::{Reader, Writer};

pub const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Elements of a request document whose reader names no other bound.
const ELEMENTS_MAX: usize = 1000;
/// Nesting of a request document.
const DEPTH_MAX: usize = 8;

/// An answer under construction.
pub struct Document {
    writer: Writer<Vec<u8>>,
}

impl Document {
    /// With the root element `root` open.
    pub fn new(root: &str) -> Self {
        Self::bare(root, true)
    }

    /// Error documents have no namespace.
    pub fn error() -> Self {
        Self::bare("Error", false)
    }

    fn bare(root: &str, namespace: bool) -> Self {
        let mut document = Self {
            writer: Writer::new(Vec::with_capacity(512)),
        };
        document.write(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)));
        let mut start = BytesStart::new(root);
        if namespace {
            start.push_attribute(("xmlns", NAMESPACE));
        }
        document.write(Event::Start(start));
        document
    }

    fn write(&mut self, event: Event<'_>) {
        // Writing into memory cannot fail.
        let _ = self.writer.write_event(event);
    }

    pub fn open(&mut self, name: &str) -> &mut Self {
        self.write(Event::Start(BytesStart::new(name)));
        self
    }

    /// Opens an element that has attributes.
    pub fn open_with(&mut self, name: &str, attributes: &[(&str, &str)]) -> &mut Self {
        let start = BytesStart::new(name).with_attributes(attributes.iter().copied());
        self.write(Event::Start(start));
        self
    }

    pub fn close(&mut self, name: &str) -> &mut Self {
        self.write(Event::End(BytesEnd::new(name)));
        self
    }

    /// `<name>text</name>`
    pub fn leaf(&mut self, name: &str, text: &str) -> &mut Self {
        self.open(name);
        self.text(text);
        self.close(name)
    }

    pub fn text(&mut self, text: &str) -> &mut Self {
        if !text.is_empty() {
            self.write(Event::Text(BytesText::from_escaped(escape(text))));
        }
        self
    }

    pub fn optional(&mut self, name: &str, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.leaf(name, text),
            None => self,
        }
    }

    /// Closes the root and gives the bytes.
    pub fn finish(mut self, root: &str) -> Vec<u8> {
        self.close(root);
        self.writer.into_inner()
    }
}

/// Escapes markup, and with numeric references what a reader would change (CR, LF, tab) or what
/// XML 1.0 has no other way to write (control characters), as AWS does.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\u{0}'..='\u{1f}' | '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{fffe}' | '\u{ffff}' => {
                out.push_str(&format!("&#x{:x};", u32::from(character)));
            }
            _ => out.push(character),
        }
    }
    out
}

/// The document is not one, is not the one expected, or is too large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadXml;

/// An element of a request document.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Element {
    pub name: String,
    /// Empty where there are children.
    pub text: String,
    pub children: Vec<Element>,
}

/// What a walk through a document meets.
enum Step {
    Open(String),
    /// With the text of an element that has no children.
    Close(Option<String>),
}

/// The root of a document, which must be `root`, and what is below it: at most `elements_max`
/// elements in all.
pub fn tree(bytes: &[u8], root: &str, elements_max: usize) -> Result<Element, BadXml> {
    let mut open: Vec<Element> = Vec::new();
    let mut whole = None;
    walk(bytes, root, elements_max, |step| match step {
        Step::Open(name) => open.push(Element {
            name,
            ..Element::default()
        }),
        Step::Close(text) => {
            let Some(mut element) = open.pop() else {
                return;
            };
            element.text = text.unwrap_or_default();
            match open.last_mut() {
                Some(parent) => parent.children.push(element),
                None => whole = Some(element),
            }
        }
    })?;
    whole.ok_or(BadXml)
}

/// The leaf elements of a document below `root`, as paths: `[("Location/Name", text), ...]`.
pub fn leaves(bytes: &[u8], root: &str) -> Result<Vec<(String, String)>, BadXml> {
    let mut path: Vec<String> = Vec::new();
    let mut found = Vec::new();
    walk(bytes, root, ELEMENTS_MAX, |step| match step {
        Step::Open(name) => path.push(name),
        Step::Close(text) => {
            if let (Some(text), [_, below @ ..]) = (text, &path[..])
                && !below.is_empty()
            {
                found.push((below.join("/"), text));
            }
            path.pop();
        }
    })?;
    Ok(found)
}

/// Reads a document whose root is `root`.
///
/// No document type, no processing instruction, no custom entity; bounded in depth and number.
/// Namespaces are not looked at: SDKs differ in whether they send one. Ends of lines are what XML
/// says they are: only a reference brings a carriage return.
fn walk(
    bytes: &[u8],
    root: &str,
    elements_max: usize,
    mut on: impl FnMut(Step),
) -> Result<(), BadXml> {
    let mut reader = Reader::from_reader(bytes);
    reader.config_mut().check_end_names = true;
    let mut text = String::new();
    let (mut depth, mut elements) = (0, 0);
    let mut is_leaf = false;
    loop {
        let event = reader.read_event().map_err(|_| BadXml)?;
        if let Event::Start(start) | Event::Empty(start) = &event {
            let name = std::str::from_utf8(start.local_name().into_inner())
                .map_err(|_| BadXml)?
                .to_owned();
            if elements == elements_max || depth == DEPTH_MAX {
                return Err(BadXml);
            }
            if depth == 0 && (elements > 0 || name != root) {
                return Err(BadXml);
            }
            elements += 1;
            depth += 1;
            text.clear();
            is_leaf = true;
            on(Step::Open(name));
        }
        match event {
            Event::End(_) | Event::Empty(_) => {
                on(Step::Close(is_leaf.then(|| std::mem::take(&mut text))));
                is_leaf = false;
                depth -= 1;
            }
            Event::Start(_) | Event::Decl(_) | Event::Comment(_) => {}
            Event::CData(_) | Event::GeneralRef(_) if depth == 0 => return Err(BadXml),
            Event::Text(part) => {
                let part = part.xml10_content().map_err(|_| BadXml)?;
                if depth == 0 && !part.trim().is_empty() {
                    return Err(BadXml);
                }
                text.push_str(&part);
            }
            Event::CData(part) => text.push_str(&part.xml10_content().map_err(|_| BadXml)?),
            Event::GeneralRef(reference) => {
                if let Some(character) = reference.resolve_char_ref().map_err(|_| BadXml)? {
                    text.push(character);
                } else {
                    let name = reference.decode().map_err(|_| BadXml)?;
                    text.push_str(
                        quick_xml::escape::resolve_predefined_entity(&name).ok_or(BadXml)?,
                    );
                }
            }
            Event::DocType(_) | Event::PI(_) => return Err(BadXml),
            Event::Eof => break,
        }
    }
    if elements == 0 || depth > 0 {
        return Err(BadXml);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hostile_text_survives() {
        let hostile = "a<b>&\"' \u{1}\r\n\t\u{7f}€]]>&amp;";
        let mut document = Document::new("Root");
        document
            .leaf("Key", hostile)
            .leaf("Empty", "")
            .optional("None", None);
        let bytes = document.finish("Root");
        let found = leaves(&bytes, "Root").unwrap();
        let expected = [
            ("Key".to_owned(), hostile.to_owned()),
            ("Empty".to_owned(), String::new()),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn trees_keep_what_belongs_together() {
        let text = "<D><O><K>a\r\nb&#13;</K><V/></O>\n<O><K><![CDATA[<x>\r]]></K></O><Q>t</Q></D>";
        let root = tree(text.as_bytes(), "D", 7).unwrap();
        let names: Vec<&str> = root.children.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(
            (root.name.as_str(), &names[..]),
            ("D", &["O", "O", "Q"][..])
        );
        let first: Vec<(&str, &str)> = root.children[0]
            .children
            .iter()
            .map(|one| (one.name.as_str(), one.text.as_str()))
            .collect();
        assert_eq!(first, [("K", "a\nb\r"), ("V", "")]);
        assert_eq!(root.children[1].children[0].text, "<x>\n");
        assert_eq!(root.children[2].text, "t");
        assert_eq!(tree(text.as_bytes(), "D", 6), Err(BadXml));
        assert_eq!(tree(b"<E/>", "D", 7), Err(BadXml));
        let attributes = "<G xmlns:xsi=\"x\" xsi:type=\"a&amp;b\">t</G>";
        let mut document = Document::new("R");
        document
            .open_with("G", &[("xmlns:xsi", "x"), ("xsi:type", "a&b")])
            .text("t")
            .close("G");
        let bytes = String::from_utf8(document.finish("R")).unwrap();
        assert!(bytes.contains(attributes), "{bytes}");
    }

    #[test]
    fn documents_are_read_within_limits() {
        let good = "<?xml version=\"1.0\"?>\n<A xmlns=\"http://x\">\n <B>x &lt; &#65;</B> <C><D/></C>\n</A>";
        let found = leaves(good.as_bytes(), "A").unwrap();
        let pair = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        assert_eq!(found, [pair("B", "x < A"), pair("C/D", "")]);
        let deep = format!(
            "<A>{}{}</A>",
            "<B>".repeat(DEPTH_MAX),
            "</B>".repeat(DEPTH_MAX)
        );
        let wide = format!("<A>{}</A>", "<B/>".repeat(ELEMENTS_MAX));
        for bad in [
            "",
            "<A>",
            "</A>",
            "<B/>",
            "<A/><A/>",
            "<A></B>",
            "text",
            "<A/>text",
            &deep,
            &wide,
            "<!DOCTYPE A [<!ENTITY x \"y\">]><A>&x;</A>",
            "<A>&x;</A>",
            "<?x y?><A/>",
            "<A>&#0;</A>",
            "&amp;<A/>",
            "<A/><![CDATA[x]]>",
        ] {
            assert_eq!(leaves(bad.as_bytes(), "A"), Err(BadXml), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in "[<>/&;#xA \"=!\\[\\]?-]{0,60}", any in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = leaves(noise.as_bytes(), "A");
            let _ = leaves(format!("<A>{noise}</A>").as_bytes(), "A");
            let _ = leaves(&any, "A");
            let _ = tree(format!("<A>{noise}</A>").as_bytes(), "A", 9);
        }

        #[test]
        fn every_text_survives(text in "\\PC{0,40}") {
            let mut document = Document::new("R");
            document.leaf("K", &text);
            let expected = [("K".to_owned(), text.clone())];
            prop_assert_eq!(leaves(&document.finish("R"), "R").unwrap(), expected);
        }
    }
}
