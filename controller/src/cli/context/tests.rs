use std::{fs, os::unix::fs::PermissionsExt as _};

use weft_tls::testing::Authority;

use super::*;

fn context(name: &str) -> Context {
    Context {
        name: name.to_owned(),
        controller: "10.0.0.1:15010".to_owned(),
        namespace: "shop".to_owned(),
        certificate: Pem::Inline("-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n".to_owned()),
        key: Pem::File("ann \"key\".pem".into()),
        trust_bundle: Pem::File("/roots.pem".into()),
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_is_written_is_read_again() {
    let mut contexts = Contexts {
        current: Some("true".to_owned()),
        contexts: vec![context("true"), context("a@b")],
    };
    contexts.put(Context {
        namespace: "bank".to_owned(),
        ..context("a@b")
    });
    let text = contexts.to_yaml();
    assert_eq!(Contexts::parse("c.yaml", &text).unwrap(), contexts, "{text}");
    let none = Contexts::default();
    assert_eq!(Contexts::parse("c.yaml", &none.to_yaml()).unwrap(), none);
}

#[test]
fn all_that_is_wrong_with_the_file_is_told() {
    let text = "current: prod\ncontexts:\n- name: a b\n  controller: x:99999\n  certificate: a\n  key: b\n  trustBundle: \
                c\n- name: b\n  controler: x\n";
    let errors: Vec<String> = Contexts::parse("c.yaml", text)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();
    for wanted in [
        "c.yaml:3: contexts[0].name: \"a b\" is not a name for a context",
        "c.yaml:4: contexts[0].controller: x:99999 is not a host and port",
        "c.yaml:8: contexts[1].certificate: missing",
        "c.yaml:9: contexts[1].controler: unknown field; did you mean controller?",
    ] {
        assert!(
            errors.iter().any(|error| error.starts_with(wanted)),
            "{wanted}\n{errors:#?}"
        );
    }
}

#[test]
fn the_file_is_for_its_owner_alone_and_never_half_written() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("weft/config.yaml");
    change(&path, |contexts| {
        contexts.put(context("a"));
        Ok(())
    })
    .unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    // An older one that was open to others is not any more.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let failed: Result<(), _> = change(&path, |contexts| {
        contexts.contexts.clear();
        Err(Failure::other("no"))
    });
    assert!(failed.is_err());
    assert_eq!(load(&path).unwrap().unwrap().contexts.len(), 1);
    change(&path, |contexts| {
        contexts.put(context("b"));
        Ok(())
    })
    .unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(load(&path).unwrap().unwrap().contexts.len(), 2);
    let left: Vec<_> = fs::read_dir(path.parent().unwrap())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_link_to_the_file_stays_one() {
    let directory = tempfile::tempdir().unwrap();
    let (real, link) = (
        directory.path().join("real.yaml"),
        directory.path().join("link.yaml"),
    );
    store::write(&real, "contexts: []\n").unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    change(&link, |contexts| {
        contexts.put(context("a"));
        Ok(())
    })
    .unwrap();
    assert!(link.is_symlink());
    assert_eq!(load(&real).unwrap().unwrap().contexts.len(), 1);
}

#[test]
fn a_file_that_is_wrong_is_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    fs::write(&path, "contexts: 7\n").unwrap();
    assert!(
        change(&path, |contexts| {
            contexts.put(context("a"));
            Ok(())
        })
        .is_err()
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), "contexts: 7\n");
}

#[test]
fn the_admins_credential_can_be_used() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("admin.yaml");
    let authority = Authority::new("mesh.test");
    let svid = authority.svid_pem("shop", "web");
    write_admin(
        &path,
        "127.0.0.1:15010",
        &svid.chain,
        &svid.key,
        &authority.bundle_pem(),
    )
    .unwrap();
    assert_eq!(mode(&path), 0o600);
    let context = choose(&path, None).unwrap();
    let credentials = context.credentials(&path).unwrap();
    assert_eq!(credentials.svid().id(), &authority.id("shop", "web"));
    assert_eq!(
        (context.name.as_str(), context.controller.as_str()),
        ("admin", "127.0.0.1:15010")
    );
}

#[test]
fn the_users_own_file_is_where_xdg_says() {
    let path = |variables: &[(&str, &str)]| {
        own_path(|name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        })
        .map(|path| path.display().to_string())
    };
    assert_eq!(
        path(&[("XDG_CONFIG_HOME", "/x"), ("HOME", "/h")]).unwrap(),
        "/x/weft/config.yaml"
    );
    assert_eq!(path(&[("HOME", "/h")]).unwrap(), "/h/.config/weft/config.yaml");
    // The XDG specification: a path that is not absolute is none.
    assert_eq!(
        path(&[("XDG_CONFIG_HOME", "x"), ("HOME", "/h")]).unwrap(),
        "/h/.config/weft/config.yaml"
    );
    assert!(path(&[]).is_err());
}

#[test]
fn contexts_are_chosen_by_name_or_the_current_one() {
    let contexts = Contexts {
        current: None,
        contexts: vec![context("a"), context("b")],
    };
    assert!(matches!(contexts.choose(None), Err(Failure::Other(..))));
    assert_eq!(contexts.choose(Some("b")).unwrap().name, "b");
    assert_eq!(contexts.choose(Some("c")).unwrap_err().code(), 2);
    let only = Contexts {
        current: None,
        contexts: vec![context("a")],
    };
    assert_eq!(only.choose(None).unwrap().name, "a");
}

#[test]
fn addresses_of_controllers() {
    for (text, wanted) in [
        ("mesh.example", "mesh.example:15010"),
        ("10.0.0.1:1", "10.0.0.1:1"),
        ("::1", "[::1]:15010"),
        ("[::1]", "[::1]:15010"),
        ("[::1]:9", "[::1]:9"),
    ] {
        assert_eq!(address(text).as_deref(), Ok(wanted), "{text}");
    }
    for text in ["", ":1", "a:0", "a:b", "a:70000", "http://a", "a b", "[::x]:1"] {
        assert!(address(text).is_err(), "{text}");
    }
}
