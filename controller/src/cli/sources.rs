//! `-f`: the documents that a command is given, in files, directories or on standard input.

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use weft_proto::Source;

use super::failure::Failure;

/// The name of standard input.
const STDIN: &str = "-";
/// Which files of a directory are documents.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// The most bytes of one file: what the parser takes at most, and one more so that it can say so.
const MAX_BYTES: u64 = (4 << 20) + 1;

/// Reads them in the order given, those of a directory in the order of their names and with `recursive` those of the
/// directories in it.
///
/// # Errors
/// One cannot be read, or a directory has none.
pub(crate) fn read(paths: &[PathBuf], recursive: bool) -> Result<Vec<Source>, Failure> {
    let mut sources = Vec::new();
    for path in paths {
        if path.as_os_str() == STDIN {
            sources.push(Source::new(
                "standard input",
                read_text(path, io::stdin().lock())?,
            ));
        } else if path.is_dir() {
            let mut files = Vec::new();
            find(path, recursive, &mut files)?;
            if files.is_empty() {
                return Err(Failure::Other(
                    format!("{} has no file that ends in .yaml, .yml or .json", path.display()),
                    (!recursive).then(|| "-R looks into the directories in it as well.".to_owned()),
                ));
            }
            for file in files {
                sources.push(read_file(&file)?);
            }
        } else {
            sources.push(read_file(path)?);
        }
    }
    Ok(sources)
}

fn find(directory: &Path, recursive: bool, files: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let failed = |source| failed(directory, source);
    let mut entries: Vec<PathBuf> = fs::read_dir(directory)
        .map_err(failed)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    entries.sort();
    for entry in entries {
        // A link to a directory is not followed: it may lead back here.
        let is_directory = entry.is_dir() && !entry.is_symlink();
        let is_document = || {
            let extension = entry.extension().and_then(|extension| extension.to_str());
            extension.is_some_and(|extension| EXTENSIONS.contains(&extension))
        };
        if is_directory && recursive {
            find(&entry, recursive, files)?;
        } else if !is_directory && is_document() {
            files.push(entry);
        }
    }
    Ok(())
}

fn read_file(path: &Path) -> Result<Source, Failure> {
    let file = fs::File::open(path).map_err(|source| failed(path, source))?;
    Ok(Source::new(path.display().to_string(), read_text(path, file)?))
}

fn read_text(path: &Path, from: impl io::Read) -> Result<String, Failure> {
    let mut text = String::new();
    from.take(MAX_BYTES)
        .read_to_string(&mut text)
        .map_err(|source| failed(path, source))?;
    Ok(text)
}

fn failed(path: &Path, source: io::Error) -> Failure {
    Failure::File {
        doing: "read",
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_its_documents_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in ["b.yaml", "a.yml", "c.json", "README.md", ".d.yaml~"] {
            fs::write(path.join(name), name).unwrap();
        }
        fs::create_dir(path.join("more")).unwrap();
        fs::write(path.join("more/e.yaml"), "e").unwrap();
        std::os::unix::fs::symlink(path, path.join("more/loop")).unwrap();
        let texts = |recursive| {
            let sources = read(&[path.to_owned()], recursive).unwrap();
            sources.into_iter().map(|source| source.text).collect::<Vec<_>>()
        };
        assert_eq!(texts(false), ["a.yml", "b.yaml", "c.json"]);
        assert_eq!(texts(true), ["a.yml", "b.yaml", "c.json", "e"]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let failure = read(&[directory.path().join("missing.yaml")], false).unwrap_err();
        assert!(failure.to_string().contains("missing.yaml: "), "{failure}");
        let failure = read(&[directory.path().to_owned()], false).unwrap_err();
        assert!(failure.to_string().contains("has no file"), "{failure}");
        fs::write(directory.path().join("latin.yaml"), [0xe9]).unwrap();
        assert!(read(&[directory.path().to_owned()], false).is_err());
    }
}
