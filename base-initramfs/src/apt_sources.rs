//! Which mirrors a Debian machine's own apt uses.
//!
//! Source: sources.list(5), both its one-line and its deb822 format.

use std::path::Path;

/// The main archive's mirrors in the apt sources below `etc_apt` (usually `/etc/apt`), in the order apt reads them.
///
/// Only entries that have the suites of the distribution itself and its component `main` count: no security or
/// updates archives, no other vendors'. Files that can't be read count as empty.
pub fn mirrors_from_apt_sources(etc_apt: &Path) -> Vec<String> {
    archives(etc_apt, is_main)
}

/// Archives of security updates in a directory like /etc/apt, in the order of apt, without those that are files.
pub fn security_from_apt_sources(etc_apt: &Path) -> Vec<String> {
    archives(etc_apt, is_security)
}

/// Whether a source with this URI and these suites is meant.
pub(crate) type Fits = fn(&str, &[&str]) -> bool;

pub(crate) fn is_main(uri: &str, suites: &[&str]) -> bool {
    // Other archives of the distribution have a dash or a slash in their suites: trixie-updates, trixie/updates.
    let main = |suite: &&str| !suite.contains(['-', '/']);
    let named = uri.ends_with("/debian") || uri.contains("/debian/");
    if named { suites.iter().any(main) } else { suites.iter().any(|suite| SUITES.contains(suite)) }
}

/// Until Debian 10 they were called `buster/updates`.
pub(crate) fn is_security(uri: &str, suites: &[&str]) -> bool {
    uri.starts_with("http") && suites.iter().any(|suite| suite.ends_with("-security") || suite.ends_with("/updates"))
}

fn archives(etc_apt: &Path, fits: Fits) -> Vec<String> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut mirrors = one_line(&read(&etc_apt.join("sources.list")), fits);
    let mut parts: Vec<_> = std::fs::read_dir(etc_apt.join("sources.list.d"))
        .map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
        .unwrap_or_default();
    parts.sort();
    for part in parts {
        match part.extension().and_then(|extension| extension.to_str()) {
            Some("list") => mirrors.extend(one_line(&read(&part), fits)),
            Some("sources") => mirrors.extend(deb822(&read(&part), fits)),
            _ => {}
        }
    }
    let mut unique: Vec<String> = Vec::new();
    for mirror in mirrors {
        if !unique.contains(&mirror) {
            unique.push(mirror);
        }
    }
    unique
}

/// Mirrors of a file in the one-line format: `deb [options] uri suite components`.
pub(crate) fn one_line(text: &str, fits: Fits) -> Vec<String> {
    let mut mirrors = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t'])) else { continue };
        let mut rest = rest.trim_start();
        if rest.starts_with('[') {
            rest = rest.split_once(']').map_or("", |(_, rest)| rest).trim_start();
        }
        let mut words = rest.split_whitespace();
        if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
            mirrors.extend(mirror(uri, &[suite], &words.collect::<Vec<_>>(), fits));
        }
    }
    mirrors
}

/// Mirrors of a file in the deb822 format: stanzas of `Field: values`.
pub(crate) fn deb822(text: &str, fits: Fits) -> Vec<String> {
    let mut mirrors = Vec::new();
    let mut lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
    lines.push("");
    let mut fields: Vec<(String, Vec<&str>)> = Vec::new();
    for line in lines {
        if line.trim().is_empty() {
            let get = |name: &str| {
                fields.iter().find(|(field, _)| field == name).map(|(_, values)| values.clone()).unwrap_or_default()
            };
            let enabled = !get("enabled").iter().any(|value| matches!(*value, "no" | "false" | "0" | "off"));
            if enabled && get("types").contains(&"deb") {
                for uri in get("uris") {
                    mirrors.extend(mirror(uri, &get("suites"), &get("components"), fits));
                }
            }
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, values)) = fields.last_mut() {
                values.extend(line.split_whitespace());
            }
        } else if let Some((name, values)) = line.split_once(':') {
            fields.push((name.to_ascii_lowercase(), values.split_whitespace().collect()));
        }
    }
    mirrors
}

/// Debian's own suites; a source with one of these may be a mirror whose address doesn't say so.
const SUITES: [&str; 11] = [
    "stable",
    "testing",
    "unstable",
    "sid",
    "oldstable",
    "oldoldstable",
    "buster",
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
];

/// An address without the name and password before its `@`. They must not get into what is reported, logged or handed
/// to a payload; apt's own place for them is auth.conf.
pub(crate) fn without_credentials(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}{path}")
}

/// The mirrors at `uri`, if it is one that is meant and that this library can use.
fn mirror(uri: &str, suites: &[&str], components: &[&str], fits: Fits) -> Vec<String> {
    if !components.contains(&"main") {
        return Vec::new();
    }
    // Cloud images keep their mirrors in a file: one address a line, perhaps with properties after it.
    if let Some(path) = uri.strip_prefix("mirror+file:") {
        let list = std::fs::read_to_string(path.trim_start_matches("//")).unwrap_or_default();
        let uris = list.lines().filter_map(|line| line.split('#').next()?.split_whitespace().next());
        // A list has addresses, and no lists: one that named itself would never end.
        let uris = uris.filter(|uri| !uri.starts_with("mirror+"));
        return uris.flat_map(|uri| mirror(uri, suites, components, fits)).collect();
    }
    let uri = match uri.strip_prefix("file:") {
        Some(path) => format!("file:///{}", path.trim_matches('/')),
        None => uri.trim_end_matches('/').to_owned(),
    };
    let uri = without_credentials(&uri);
    let usable = ["http://", "https://", "file:///"].iter().any(|scheme| uri.starts_with(scheme));
    if usable && fits(&uri, suites) { vec![uri] } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats() {
        let list = "# deb http://no.example/debian trixie main\n\
            deb [arch=amd64 signed-by=/k.gpg] http://a.example/debian/ trixie main contrib # why not\n\
            deb-src http://src.example/debian trixie main\n\
            deb http://a.example/debian trixie-updates main\n\
            deb http://sec.example/debian-security trixie-security main\n\
            deb https://vendor.example/linux/debian trixie stable\n\
            deb http://plain.example bookworm main\n\
            deb http://other.example/x nodistro main\n\
            deb cdrom:[Debian]/ trixie main\n\
            deb file:/srv/debian trixie main\n";
        assert_eq!(one_line(list, is_main), ["http://a.example/debian", "http://plain.example", "file:///srv/debian"]);
        let sources = "# comment\nTypes: deb deb-src\nURIs: http://a.example/debian\n http://b.example/debian\n\
            # comment between\nSuites: trixie trixie-updates\nComponents: main\n\n\
            Enabled: no\nTypes: deb\nURIs: http://off.example/debian\nSuites: trixie\nComponents: main\n\n\
            types: deb\nuris: http://sec.example/debian-security\nsuites: trixie-security\ncomponents: main\n";
        assert_eq!(one_line(list, is_security), ["http://sec.example/debian-security"]);
        assert_eq!(deb822(sources, is_security), ["http://sec.example/debian-security"]);
        assert_eq!(deb822(sources, is_main), ["http://a.example/debian", "http://b.example/debian"]);
    }

    #[test]
    fn passwords_stay_behind() {
        for (with, without) in [
            ("http://user:secret@m.example/debian", "http://m.example/debian"),
            ("http://us@er:se@cret@m.example:8080/debian", "http://m.example:8080/debian"),
            ("http://m.example/debian/@SNAPSHOTID@/", "http://m.example/debian/@SNAPSHOTID@/"),
            ("/srv/a@b", "/srv/a@b"),
        ] {
            assert_eq!(without_credentials(with), without);
        }
        assert_eq!(
            one_line("deb http://user:secret@m.example/debian trixie main", is_main),
            ["http://m.example/debian"]
        );
        let attempt = crate::Attempt { url: "http://u:secret@m.example/x".into(), failure: crate::Failure::NotFound };
        let error = crate::Error::Fetch { file: "x".into(), attempts: vec![attempt] }.to_string();
        assert!(error.contains("http://m.example/x") && !error.contains("secret"), "{error}");
    }

    #[test]
    fn a_whole_directory() {
        let etc = tempfile::tempdir().unwrap();
        let parts = etc.path().join("sources.list.d");
        std::fs::create_dir(&parts).unwrap();
        let mirrors = etc.path().join("mirrors.list");
        std::fs::write(&mirrors, "https://m.example/debian\tpriority:1\n# no\nhttp://a.example/debian\n").unwrap();
        std::fs::write(etc.path().join("sources.list"), "deb http://a.example/debian trixie main\n").unwrap();
        let cloud =
            format!("Types: deb\nURIs: mirror+file://{}\nSuites: trixie\nComponents: main\n", mirrors.display());
        std::fs::write(parts.join("debian.sources"), cloud).unwrap();
        std::fs::write(parts.join("old.list.save"), "deb http://saved.example/debian trixie main\n").unwrap();
        assert_eq!(mirrors_from_apt_sources(etc.path()), ["http://a.example/debian", "https://m.example/debian"]);
        // A list that names itself.
        std::fs::write(&mirrors, format!("mirror+file:{}\nhttp://b.example/debian\n", mirrors.display())).unwrap();
        assert_eq!(mirrors_from_apt_sources(etc.path()), ["http://a.example/debian", "http://b.example/debian"]);
        assert!(mirrors_from_apt_sources(&etc.path().join("missing")).is_empty());
    }
}
