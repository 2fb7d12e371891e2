//! What is in an image, beside it: a plain list of packages, and the same as an SPDX 2.3 document in JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::chroot::{Chroot, environment};
use crate::command::Context;
use crate::inside::Inside;
use crate::output;
use crate::problem::{Doing, Problem};

/// Endings of the names of what is written.
pub const ENDINGS: [&str; 2] = ["packages", "spdx.json"];
/// What apt has told of packages, in the working directory.
const KNOWN: &str = "apt-knows";

/// An installed package.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Package {
    name: String,
    version: String,
    architecture: String,
    /// The source package that it was built from, with its version where that is another.
    source: Option<String>,
    homepage: Option<String>,
    /// What it calls its licences.
    licences: BTreeSet<String>,
    /// SHA-256 of the archive that it came in, in hexadecimal.
    sha256: Option<String>,
    /// That archive's path in the repository.
    file: Option<String>,
}

/// Which package manager an image has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dpkg,
    Pacman,
    Apk,
}

impl Kind {
    /// The type of its packages in package URLs (purl-spec, PURL-TYPES.rst).
    fn purl(self) -> &'static str {
        match self {
            Self::Dpkg => "deb",
            Self::Pacman => "alpm",
            Self::Apk => "apk",
        }
    }
}

/// Fields of paragraphs as in deb822(5), but for continued lines.
fn paragraphs(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n").map(|paragraph| {
        let lines = paragraph.lines().filter(|line| !line.starts_with([' ', '\t', '#']));
        lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name, value.trim())).collect()
    })
}

/// Of /var/lib/dpkg/status, or of what `apt-cache show` prints.
fn of_dpkg(text: &str) -> Vec<Package> {
    let package = |fields: BTreeMap<&str, &str>| {
        let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        if field("Status").is_some_and(|status| !status.ends_with(" installed")) {
            return None;
        }
        Some(Package {
            name: field("Package")?,
            version: field("Version")?,
            architecture: field("Architecture")?,
            source: field("Source"),
            homepage: field("Homepage"),
            licences: BTreeSet::new(),
            sha256: field("SHA256"),
            file: field("Filename"),
        })
    };
    paragraphs(text).filter_map(package).collect()
}

/// Of apk's database (apk-tools' doc, "installed"): a letter, a colon and a value on each line.
fn of_apk(text: &str) -> Vec<Package> {
    let package = |fields: BTreeMap<&str, &str>| {
        let field = |name: &str| fields.get(name).map(|value| (*value).to_owned());
        let licences = field("L").into_iter().collect();
        let (name, version, architecture) = (field("P")?, field("V")?, field("A")?);
        let (source, homepage) = (field("o"), field("U"));
        Some(Package { name, version, architecture, source, homepage, licences, ..Package::default() })
    };
    paragraphs(text).filter_map(package).collect()
}

/// Of a package's `desc` in pacman's database: `%NAME%`, and its values on the lines after it.
fn of_pacman(text: &str) -> Option<Package> {
    let values: BTreeMap<&str, Vec<&str>> = text
        .split("\n\n")
        .filter_map(|part| part.trim().split_once('\n'))
        .map(|(name, values)| (name.trim_matches('%'), values.lines().collect()))
        .collect();
    let field = |name: &str| values.get(name)?.first().map(|value| (*value).to_owned());
    let licences = values.get("LICENSE").into_iter().flatten().map(|licence| (*licence).to_owned()).collect();
    let (name, version, architecture) = (field("NAME")?, field("VERSION")?, field("ARCH")?);
    let (source, homepage) = (field("BASE"), field("URL"));
    Some(Package { name, version, architecture, source, homepage, licences, ..Package::default() })
}

/// Names of licences in a copyright file, if it is one that machines can read (Debian's copyright-format 1.0).
fn licences(copyright: &str) -> BTreeSet<String> {
    if !copyright.lines().next().is_some_and(|line| line.starts_with("Format:") && line.contains("copyright-format")) {
        return BTreeSet::new();
    }
    let names = copyright.lines().filter_map(|line| line.strip_prefix("License:")).map(str::trim);
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Keeps what the image's apt knows of the packages that are installed, while it has lists of what archives have.
///
/// # Errors
/// apt-cache(8) can't be started, or the file can't be written.
pub fn note(context: &Context, chroot: &Chroot<'_>, work: &Path) -> Result<(), Problem> {
    let image = chroot.image();
    let has_lists = image.names(Path::new("var/lib/apt/lists")).iter().any(|name| name.contains("_Packages"));
    if !has_lists || !image.exists("usr/bin/apt-cache") {
        return Ok(());
    }
    let status = image.read(Path::new("var/lib/dpkg/status")).unwrap_or_default();
    let words = of_dpkg(&String::from_utf8_lossy(&status)).into_iter().map(|package| {
        let Package { name, version, architecture, .. } = package;
        let architecture = if architecture == "all" { String::new() } else { format!(":{architecture}") };
        format!("{name}{architecture}={version}")
    });
    // It would leave its own caches.
    let tool =
        chroot.command("apt-cache").args(["-q", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]);
    let tool = environment(tool.arg("show")).args(words.collect::<Vec<_>>());
    // A package that no list has makes it fail, after it has told of the others.
    let known = tool.output_anyway(context)?;
    let path = work.join(KNOWN);
    let before = fs::read(&path).unwrap_or_default();
    fs::write(&path, [&before[..], b"\n", &known[..]].concat()).doing(|| format!("writing {}", path.display()))
}

fn installed(image: &Inside, work: &Path) -> Option<(Kind, Vec<Package>)> {
    let read = |path: &str| {
        let bytes = image.read(Path::new(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    if let Some(status) = read("var/lib/dpkg/status") {
        let known = fs::read(work.join(KNOWN)).unwrap_or_default();
        let known = of_dpkg(&String::from_utf8_lossy(&known)).into_iter();
        let key = |package: &Package| (package.name.clone(), package.version.clone(), package.architecture.clone());
        let known: BTreeMap<_, _> = known.map(|package| (key(&package), package)).collect();
        let mut packages = of_dpkg(&status);
        for package in &mut packages {
            if let Some(found) = known.get(&key(package)) {
                (package.sha256, package.file) = (found.sha256.clone(), found.file.clone());
            }
            let copyright = read(&format!("usr/share/doc/{}/copyright", package.name));
            package.licences = licences(&copyright.unwrap_or_default());
        }
        return Some((Kind::Dpkg, packages));
    }
    if let Some(text) = read("lib/apk/db/installed").or_else(|| read("usr/lib/apk/db/installed")) {
        return Some((Kind::Apk, of_apk(&text)));
    }
    let dir = "var/lib/pacman/local";
    let names = image.names(Path::new(dir));
    let packages = names.iter().filter_map(|name| of_pacman(&read(&format!("{dir}/{name}/desc"))?)).collect();
    (!names.is_empty()).then_some((Kind::Pacman, packages))
}

/// Writes both files into the working directory; nothing where the image has no packages that anything is known of.
///
/// # Errors
/// They can't be written.
pub fn write(image: &Inside, imgname: &str, work: &Path) -> Result<(), Problem> {
    let Some((kind, mut packages)) = installed(image, work) else { return Ok(()) };
    packages.sort();
    let list = list(&packages);
    let release = image.read(Path::new("etc/os-release")).unwrap_or_default();
    let release = String::from_utf8_lossy(&release).into_owned();
    let id = release.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or("linux").trim_matches('"');
    let document = spdx(imgname, kind, id, &packages, &list, output::created());
    let document = serde_json::to_string_pretty(&document).doing(|| "describing the image".into())? + "\n";
    for (ending, text) in ENDINGS.iter().zip([list, document]) {
        let path = work.join(ending);
        fs::write(&path, text).doing(|| format!("writing {}", path.display()))?;
    }
    Ok(())
}

fn list(packages: &[Package]) -> String {
    packages.iter().fold(String::new(), |mut text, package| {
        let Package { name, version, architecture, sha256, .. } = package;
        let _ = writeln!(text, "{name} {version} {architecture} {}", sha256.as_deref().unwrap_or("-"));
        text
    })
}

/// As a part of a package URL.
fn escaped(text: &str) -> String {
    text.bytes().fold(String::new(), |mut text, byte| {
        let _ = match byte {
            byte if byte.is_ascii_alphanumeric() || b".-_~:".contains(&byte) => write!(text, "{}", char::from(byte)),
            byte => write!(text, "%{byte:02X}"),
        };
        text
    })
}

fn spdx(
    imgname: &str,
    kind: Kind,
    distribution: &str,
    packages: &[Package],
    list: &str,
    created: jiff::Timestamp,
) -> Value {
    const NONE: &str = "NOASSERTION";
    let id = |index: usize| format!("SPDXRef-Package-{}", index + 1);
    // The same for the same, and another for anything else.
    let hash = Sha256::digest(format!("{imgname}\0{created}\0{list}"));
    let unique = hash.iter().take(16).fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    });
    let mut all = vec![json!({
        "SPDXID": "SPDXRef-Image",
        "name": imgname,
        "downloadLocation": NONE,
        "filesAnalyzed": false,
        "primaryPackagePurpose": "OPERATING-SYSTEM",
    })];
    let mut relations = vec![json!({
        "spdxElementId": "SPDXRef-DOCUMENT",
        "relationshipType": "DESCRIBES",
        "relatedSpdxElement": "SPDXRef-Image",
    })];
    for (index, package) in packages.iter().enumerate() {
        let Package { name, version, architecture, source, homepage, licences, sha256, file } = package;
        let purl = format!(
            "pkg:{}/{}/{}@{}?arch={}",
            kind.purl(),
            escaped(distribution),
            escaped(name),
            escaped(version),
            escaped(architecture)
        );
        let mut value = json!({
            "SPDXID": id(index),
            "name": name,
            "versionInfo": version,
            "downloadLocation": NONE,
            "filesAnalyzed": false,
            "licenseConcluded": NONE,
            "licenseDeclared": NONE,
            "copyrightText": NONE,
            "externalRefs": [{
                "referenceCategory": "PACKAGE-MANAGER",
                "referenceType": "purl",
                "referenceLocator": purl,
            }],
        });
        let mut set = |name: &str, wanted: Option<Value>| {
            if let Some(wanted) = wanted {
                value[name] = wanted;
            }
        };
        set("sourceInfo", source.as_ref().map(|source| format!("built from the source package {source}").into()));
        set("homepage", homepage.as_ref().filter(|url| url.contains("://")).map(|url| url.clone().into()));
        set("packageFileName", file.as_ref().map(|file| file.clone().into()));
        set("checksums", sha256.as_ref().map(|hash| json!([{ "algorithm": "SHA256", "checksumValue": hash }])));
        let named: Vec<&str> = licences.iter().map(String::as_str).collect();
        let named = (!named.is_empty()).then(|| format!("the package names its licences: {}", named.join("; ")));
        set("licenseComments", named.map(Value::from));
        all.push(value);
        relations.push(json!({
            "spdxElementId": "SPDXRef-Image",
            "relationshipType": "CONTAINS",
            "relatedSpdxElement": id(index),
        }));
    }
    json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": imgname,
        "documentNamespace": format!("https://spdx.org/spdxdocs/{}-{unique}", escaped(imgname)),
        "creationInfo": {
            "created": created.to_string(),
            "creators": [format!("Tool: makeimg-{}", env!("CARGO_PKG_VERSION"))],
        },
        "packages": all,
        "relationships": relations,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_of_dpkg_and_what_apt_knows() {
        let status = "Package: zlib1g\nStatus: install ok installed\nArchitecture: amd64\nMulti-Arch: same\n\
                      Source: zlib (1:1.3)\nVersion: 1:1.3+b1\nDescription: x\n Homepage: no\n\
                      Homepage: http://zlib.net/\n\n\
                      Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n";
        let found = of_dpkg(status);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].name, found[0].source.as_deref()), ("zlib1g", Some("zlib (1:1.3)")));
        assert_eq!(found[0].homepage.as_deref(), Some("http://zlib.net/"));
        let known = of_dpkg("Package: a\nVersion: 1\nArchitecture: all\nFilename: pool/a.deb\nSHA256: 00ff\n");
        assert_eq!((known[0].sha256.as_deref(), known[0].file.as_deref()), (Some("00ff"), Some("pool/a.deb")));
        assert_eq!(list(&known), "a 1 all 00ff\n");
    }

    #[test]
    fn packages_of_apk_and_pacman() {
        let apk = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\nU:https://musl.libc.org/\nF:lib\n\n\
                   P:b\nV:1\nA:noarch\n";
        let found = of_apk(apk);
        assert_eq!(found[0].licences.iter().collect::<Vec<_>>(), ["MIT"]);
        assert_eq!((found.len(), &*found[1].architecture), (2, "noarch"));
        let desc = "%NAME%\nzlib\n\n%VERSION%\n1:1.3-1\n\n%BASE%\nzlib\n\n%ARCH%\nx86_64\n\n%LICENSE%\nZlib\nMIT\n\n";
        let found = of_pacman(desc).unwrap();
        assert_eq!((&*found.version, found.licences.len()), ("1:1.3-1", 2));
        assert_eq!(of_pacman("%NAME%\nx\n"), None);
    }

    #[test]
    fn licences_are_those_of_files_for_machines() {
        let format = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n";
        let text = format!("{format}\nFiles: *\nLicense: GPL-2+\n Text.\n\nLicense: Expat\n\nLicense:\n");
        assert_eq!(licences(&text).into_iter().collect::<Vec<_>>(), ["Expat", "GPL-2+"]);
        assert!(licences("License: GPL-2\n").is_empty());
    }

    #[test]
    fn package_urls() {
        assert_eq!(escaped("1:2.3+dfsg~1"), "1:2.3%2Bdfsg~1");
    }
}
