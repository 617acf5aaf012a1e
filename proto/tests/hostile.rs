//! Whatever the text, reading it ends, in bounded time and memory, with a mesh or with errors that say where.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use proptest::prelude::*;
use std::path::Path;
use weft_proto::error::MAX_ERRORS;
use weft_proto::parse::{MAX_DOCUMENTS, parse_documents};
use weft_proto::{DocumentError, Source};

const MESH: &str = include_str!("corpus/mesh.yaml");

/// Reads a text and checks what holds for every error.
fn read(text: &str) -> Vec<DocumentError> {
    let errors = parse_documents(&[Source::new("m.yaml", text)])
        .err()
        .unwrap_or_default();
    // A bare CR is a line break of YAML's too.
    let lines = text.split_inclusive(['\n', '\r']).count() + 1;
    for error in &errors {
        assert!(error.line <= lines, "{error}");
        assert!(
            error.path.len() <= 2_000 && error.message.len() <= 2_000,
            "{error}"
        );
        let shown = error.to_string();
        assert!(
            !shown.is_empty() && !shown.contains(char::is_control),
            "{shown:?}"
        );
    }
    assert!(errors.len() <= MAX_ERRORS + 1);
    errors
}

fn first_error(text: &str) -> String {
    read(text).first().map(ToString::to_string).unwrap_or_default()
}

/// Every text of the corpus gives exactly the errors in the file beside it, which is empty if it is right.
/// With `WEFT_BLESS` set, the files are written instead: read what changed.
#[test]
fn corpus() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut count = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
        read(&text);
        let errors = parse_documents(&[Source::new(name.clone(), text)])
            .err()
            .unwrap_or_default();
        let actual: String = errors.iter().map(|error| format!("{error}\n")).collect();
        let expected = path.with_extension("errors");
        if std::env::var_os("WEFT_BLESS").is_some() {
            std::fs::write(&expected, &actual).unwrap();
        }
        assert_eq!(actual, std::fs::read_to_string(&expected).unwrap(), "{name}");
    }
    assert!(count >= 20, "only {count} texts in {}", directory.display());
}

#[test]
fn large_texts() {
    let long = format!("{MESH}#{}", "x".repeat(4 << 20));
    assert_eq!(
        first_error(&long),
        format!(
            "m.yaml: the file has {} bytes, more than the 4194304 allowed",
            long.len()
        )
    );
    let document = format!("{MESH}---\nx: {}\n---\nkind: Pod\n", "x".repeat(256 << 10));
    let errors: Vec<String> = read(&document).iter().map(ToString::to_string).collect();
    let line = MESH.lines().count() + 1;
    assert_eq!(
        errors,
        [
            format!("m.yaml:{line}: the document has 262152 bytes, more than the 262144 allowed"),
            format!("m.yaml:{}: apiVersion: missing", line + 3),
        ]
    );
}

#[test]
fn many_documents() {
    // An empty document is where the next one begins.
    let text = "---\n".repeat(1 << 20);
    assert_eq!(
        first_error(&text),
        format!(
            "m.yaml:{}: more than the {MAX_DOCUMENTS} documents allowed",
            MAX_DOCUMENTS + 2
        )
    );
    let text = "a: b\n---\n".repeat(1 << 17);
    let errors = read(&text);
    assert_eq!(errors.len(), MAX_ERRORS + 1);
    assert_eq!(
        errors.last().unwrap().to_string(),
        format!("{} more errors are not shown", 2 * MAX_DOCUMENTS + 1 - MAX_ERRORS)
    );
}

#[test]
fn deep_texts() {
    for (opening, error) in [
        ("[", "nested deeper than the 48 levels allowed"),
        ("{a: ", "nested deeper than the 48 levels allowed"),
        ("- ", "nested deeper than the 48 levels allowed"),
        ("? ", "nested deeper than the 48 levels allowed"),
    ] {
        for depth in [49, 200, 20_000] {
            let text = opening.repeat(depth);
            let found = first_error(&text);
            // Past 255 levels of brackets the tokeniser gives up by itself.
            assert!(
                found.ends_with(error) || found.contains("this is not YAML"),
                "{opening} {depth}: {found}"
            );
            assert!(found.starts_with("m.yaml:1: "), "{found}");
        }
    }
    let blocks: String = (0..300)
        .map(|depth| format!("{}a:\n", " ".repeat(depth)))
        .collect();
    assert_eq!(
        first_error(&blocks),
        "m.yaml:49: nested deeper than the 48 levels allowed"
    );
    let deep_but_allowed = MESH.replacen(
        "metadata:",
        &format!("status: {}{}\nmetadata:", "[".repeat(40), "]".repeat(40)),
        1,
    );
    assert_eq!(first_error(&deep_but_allowed), "");
}

#[test]
fn wide_texts() {
    let list = format!("a: [{}]", "x, ".repeat(70_000));
    assert_eq!(
        first_error(&list),
        "m.yaml:1: the document has more than the 65536 values allowed"
    );
    let fields: String = (0..20_000).map(|index| format!("a{index}:\n")).collect();
    assert_eq!(read(&fields).len(), 2);
    let unknown = MESH.replacen("spec:", &format!("spec:\n{}", fields.replace('a', "  a")), 1);
    assert_eq!(read(&unknown).len(), MAX_ERRORS + 1);
    let same = "a: 1\n".repeat(30_000);
    assert_eq!(read(&same).len(), MAX_ERRORS + 1);
}

/// An error between documents reads both once more, to say where: but not for errors that are not shown.
#[test]
fn many_clashes_in_large_documents() {
    let ports: String = (1..2_000).map(|port| format!("  - {{port: {port}}}\n")).collect();
    let workload = |name: &str| {
        format!(
            "---\napiVersion: weft.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}}}\n\
             spec:\n  address: 10.0.0.1\n  ports:\n{ports}"
        )
    };
    let start = std::time::Instant::now();
    read(&workload("a"));
    let once = start.elapsed();
    let start = std::time::Instant::now();
    let errors = read(&format!(
        "{MESH}{}{}{}",
        workload("a"),
        workload("b"),
        workload("c")
    ));
    assert_eq!(
        errors.last().unwrap().to_string(),
        format!("{} more errors are not shown", 2 * 1_999 - MAX_ERRORS)
    );
    let line = MESH.lines().count() + 8;
    assert_eq!(
        errors[0].to_string(),
        format!(
            "m.yaml:{}: spec.ports[0].port: port 1 of 10.0.0.1 is spec.ports[0].port of the Workload default/a \
             (m.yaml:{line}) already",
            line + 2_006
        )
    );
    // 100 errors read two documents each; all 3,998 would read 8,000.
    assert!(start.elapsed() < 2_000 * once, "{:?}, {once:?}", start.elapsed());
}

#[test]
fn aliases_expand_to_nothing() {
    let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..30 {
        let one = format!("*a{}, ", level - 1);
        text += &format!("a{level}: &a{level} [{}]\n", one.repeat(9));
    }
    let errors = read(&text);
    assert_eq!(errors.len(), MAX_ERRORS + 1);
    for error in &errors[..MAX_ERRORS] {
        assert_eq!(error.message, "aliases (*) are not read: write the value out");
    }
    assert!(first_error("a: &a [*a]").starts_with("m.yaml:1: "));
}

#[test]
fn repeated_tokens() {
    for token in [
        "[",
        "]",
        "{",
        "}",
        "- ",
        "-",
        "? ",
        "?",
        ": ",
        ":",
        "a: ",
        "a:\n",
        "a: b\n",
        "[a,",
        "{a:",
        "&a ",
        "*a ",
        "!a ",
        "!!str ",
        "!<",
        "'",
        "\"",
        "\\",
        "|",
        "|\n",
        ">",
        "#",
        "%",
        "%TAG ",
        "\n",
        "\r",
        "\t",
        " ",
        "...\n",
        "--- ",
        "--- a\n",
        "<<: ",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "\u{e9}",
        "\0",
        "\u{1b}[0m",
        "@",
        "`",
        "~",
        ",",
    ] {
        for (before, after) in [
            ("", ""),
            ("[", "]"),
            ("a: ", ""),
            ("a: |\n ", ""),
            ("a: \"", "\""),
            ("- ", "\n---\nb"),
        ] {
            for count in [1, 2, 3, 1_000, 60_000] {
                read(&format!("{before}{}{after}", token.repeat(count)));
            }
        }
    }
}

/// Words with a meaning to the reader, so that random documents come far.
fn word() -> impl Strategy<Value = String> {
    let words = [
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "status",
        "v1",
        "Service",
        "Workload",
        "MeshConfig",
        "weft.dev/v1alpha1",
        "name",
        "namespace",
        "labels",
        "annotations",
        "uid",
        "selector",
        "ports",
        "port",
        "targetPort",
        "protocol",
        "appProtocol",
        "clusterIP",
        "clusterIPs",
        "type",
        "externalName",
        "sessionAffinity",
        "publishNotReadyAddresses",
        "address",
        "meshPort",
        "serviceAccount",
        "locality",
        "region",
        "zone",
        "subzone",
        "trustDomain",
        "meshRanges",
        "serviceRanges",
        "egress",
        "inbound",
        "unmeshed",
        "authorization",
        "None",
        "deny",
        "allow",
        "TCP",
        "UDP",
        "http",
        "web",
        "app",
        "10.0.0.1",
        "'::1'",
        "10.0.0.0/8",
        "80",
        "0",
        "-1",
        "1.5",
        "70000",
        "true",
        "null",
        "~",
        "''",
        "'80'",
        "\"\\u0000\"",
        "*a",
        "&a x",
        "!t x",
        "? ",
        "\u{e9}",
    ];
    prop_oneof![9 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "[ -~]{0,6}"]
}

/// A value in flow style.
fn value() -> impl Strategy<Value = String> {
    word().prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::vec((word(), inner), 0..8).prop_map(|entries| {
                let entries: Vec<String> = entries
                    .iter()
                    .map(|(key, value)| format!("{key}: {value}"))
                    .collect();
                format!("{{{}}}", entries.join(", "))
            }),
        ]
    })
}

/// A document with the right head and anything in it.
fn document() -> impl Strategy<Value = String> {
    let kinds = [
        "apiVersion: v1\nkind: Service",
        "apiVersion: weft.dev/v1alpha1\nkind: Workload",
        "apiVersion: weft.dev/v1alpha1\nkind: MeshConfig",
    ];
    let fields = prop::collection::vec((word(), value()), 0..8);
    (prop::sample::select(kinds.to_vec()), fields, value()).prop_map(|(kind, fields, rest)| {
        let spec: String = fields
            .iter()
            .map(|(key, value)| format!("  {key}: {value}\n"))
            .collect();
        format!("{kind}\nmetadata: {{name: web}}\nspec:\n{spec}status: {rest}\n")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_text(text in "\\PC{0,200}") {
        read(&text);
    }

    #[test]
    fn any_text_of_marks(text in "[-a \\[\\]{}:,?&*!|>'\"%@`#\n\t~0.\\\\\u{e9}]{0,120}") {
        read(&text);
    }

    #[test]
    fn any_values(documents in prop::collection::vec(prop_oneof![document(), value()], 1..4)) {
        read(&documents.join("\n---\n"));
    }

    #[test]
    fn a_mesh_with_bytes_changed(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0_u8..3), 1..6)
    ) {
        let mut bytes = MESH.as_bytes().to_vec();
        for (at, byte, edit) in edits {
            let at = at.index(bytes.len());
            match edit {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => { bytes.remove(at); }
            }
        }
        read(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_mesh_with_lines_moved(moves in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4)) {
        let mut lines: Vec<&str> = MESH.lines().collect();
        for (from, to) in moves {
            let line = lines.remove(from.index(lines.len()));
            lines.insert(to.index(lines.len()), line);
        }
        read(&lines.join("\n"));
    }

    #[test]
    fn a_mesh_cut_short(at in any::<prop::sample::Index>()) {
        let at = at.index(MESH.len());
        read(MESH.get(..at).unwrap_or_default());
    }
}
