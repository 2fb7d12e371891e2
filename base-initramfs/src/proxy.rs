//! The HTTP proxies through which a machine reaches archives.
//!
//! Nothing here speaks to a proxy: curl, wget, apt-helper and most other programs do, and find it in their environment
//! (curl(1), ENVIRONMENT; wget(1), Environment Variables; apt-transport-http(1), Proxy Configuration).

use std::fmt;
use std::path::Path;
use std::process::Command;

use crate::apt_config;
use crate::apt_sources::without_credentials;
use crate::command::APT_HELPER;

/// apt's proxies for http and https (apt-transport-http(1), apt-transport-https(1)).
const OPTIONS: [&str; 2] = ["Acquire::http::Proxy", "Acquire::https::Proxy"];

/// For what no proxy is asked, unless the machine knows better: apt's options name no such hosts.
const HERE: &str = "localhost,127.0.0.1,::1";

/// A machine's proxies, with user names and passwords if they want these.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    http: Option<String>,
    https: Option<String>,
    /// Hosts that are asked themselves, with commas between.
    except: Option<String>,
    /// Whether the user has said so, against what the machine's tools would do.
    said: bool,
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Proxies").field(&self.shown()).finish()
    }
}

impl Proxies {
    /// Those that this machine uses: by the environment of this process, by `/etc/environment`, where a login takes its
    /// environment from (`pam_env(8)`; sudo gives none of it on), and by apt's options.
    pub fn of_machine(environment: &Path) -> Self {
        let file = std::fs::read_to_string(environment).unwrap_or_default();
        let variable = |name: &str| std::env::var(name).ok();
        Self::found(variable, &file, || apt_config::values(apt_config::apt_config(), OPTIONS))
    }

    fn found(
        variable: impl Fn(&str) -> Option<String>,
        file: &str,
        of_apt: impl FnOnce() -> [Option<String>; 2],
    ) -> Self {
        let value = |name: &str| {
            let names = [name.to_owned(), name.to_ascii_uppercase()];
            let set = names.iter().find_map(|name| variable(name));
            set.or_else(|| names.iter().find_map(|name| assigned(file, name))).filter(|value| !value.trim().is_empty())
        };
        // What is said of all counts where nothing is said of one.
        let [http, https] = ["http_proxy", "https_proxy"].map(|name| value(name).or_else(|| value("all_proxy")));
        let except = value("no_proxy");
        if http.is_some() || https.is_some() {
            return Self { http, https, except, said: false };
        }
        let [http, https] = of_apt();
        // apt goes to https as it goes to http, unless it is told otherwise.
        let some = |value: Option<String>| value.filter(|value| is_one(value));
        Self { https: some(https.or_else(|| http.clone())), http: some(http), except, said: false }
    }

    /// The one at `url` instead of these, for http and https; without a `url`, none.
    #[must_use]
    pub fn replaced(self, url: Option<&str>) -> Self {
        let one = url.map(str::to_owned);
        Self { http: one.clone(), https: one, said: true, ..self }
    }

    /// Whether one is to be asked for what `url` names. Which hosts are excepted, its tool knows.
    pub fn is_for(&self, url: &str) -> bool {
        match url.split_once("://") {
            Some(("http", _)) => self.http.is_some(),
            Some(("https", _)) => self.https.is_some(),
            _ => false,
        }
    }

    /// The address of one of them for people, without user name and password.
    pub fn shown(&self) -> Option<String> {
        let url = self.http.as_deref().or(self.https.as_deref())?;
        // Most programs take one without a scheme for one of HTTP.
        Some(if url.contains("://") { without_credentials(url) } else { without_credentials(&format!("http://{url}")) })
    }

    /// Has a tool find these, and no others. apt's options count more than its environment, so apt gets other options
    /// where the user has said otherwise. There is no password in what a user says.
    pub(crate) fn tell(&self, tool: &mut Command) {
        for name in ["http_proxy", "https_proxy", "no_proxy", "all_proxy"] {
            tool.env_remove(name).env_remove(name.to_ascii_uppercase());
        }
        tool.envs(self.variables());
        if self.said && tool.get_program() == APT_HELPER {
            for (scheme, one) in [("http", &self.http), ("https", &self.https)] {
                let one = one.as_deref().unwrap_or("DIRECT");
                tool.args(["-o", &format!("Acquire::{scheme}::Proxy={one}")]);
            }
        }
    }

    /// The environment that programs find them by. Some programs know the names in small letters only, some the others.
    pub fn variables(&self) -> Vec<(String, String)> {
        let [http, https, except] = [&self.http, &self.https, &self.except].map(Option::as_deref);
        let except = http.or(https).map(|_| except.unwrap_or(HERE));
        let all = [("http_proxy", http), ("https_proxy", https), ("no_proxy", except)];
        let set = all.into_iter().filter_map(|(name, value)| Some((name, value?.to_owned())));
        set.flat_map(|(name, value)| [name.to_owned(), name.to_ascii_uppercase()].map(|name| (name, value.clone())))
            .collect()
    }
}

/// What apt calls no proxy at all.
fn is_one(value: &str) -> bool {
    !value.is_empty() && !value.eq_ignore_ascii_case("direct") && !value.eq_ignore_ascii_case("false")
}

/// What `/etc/environment` gives a variable: `NAME=value`, perhaps in quotes, perhaps after `export`.
fn assigned(file: &str, name: &str) -> Option<String> {
    let lines = file.lines().map(|line| line.trim().strip_prefix("export ").unwrap_or(line).trim());
    let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    // The last one counts.
    values.next_back().map(|value| value.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Apt = [Option<&'static str>; 2];
    type Pairs = &'static [(&'static str, &'static str)];

    fn found(variables: &[(&str, &str)], file: &str, apt: Apt) -> Vec<(String, String)> {
        let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        let mut all = Proxies::found(variable, file, || apt.map(|value| value.map(str::to_owned))).variables();
        all.retain(|(name, value)| name.starts_with(|c: char| c.is_ascii_lowercase()) && value != HERE);
        all
    }

    #[test]
    fn where_they_are_known_from() {
        const A: &str = "http://a.example:3128";
        const B: &str = "http://b.example:3128";
        let none: Apt = [None, None];
        let cases: &[(Pairs, &str, Apt, Pairs)] = &[
            (&[], "", none, &[]),
            (&[("http_proxy", A)], "", none, &[("http_proxy", A)]),
            (&[("HTTPS_PROXY", A)], "", none, &[("https_proxy", A)]),
            (&[("http_proxy", "")], "", none, &[]),
            (&[("ALL_PROXY", A)], "", [Some(B), None], &[("http_proxy", A), ("https_proxy", A)]),
            (&[("all_proxy", A), ("https_proxy", B)], "", none, &[("http_proxy", A), ("https_proxy", B)]),
            // The process knows best, then the file, then apt.
            (&[("http_proxy", A)], "http_proxy=http://b.example:3128\n", [Some(B), None], &[("http_proxy", A)]),
            (
                &[],
                "# proxies\nhttp_proxy=x\nexport http_proxy=\"http://b.example:3128\"\nno_proxy='.example,10.0.0.1'\n",
                [Some(A), None],
                &[("http_proxy", B), ("no_proxy", ".example,10.0.0.1")],
            ),
            (&[], "HTTP_PROXY_AUTH=x\n", none, &[]),
            (&[], "", [Some(A), None], &[("http_proxy", A), ("https_proxy", A)]),
            (&[], "", [Some(A), Some("DIRECT")], &[("http_proxy", A)]),
            (&[], "", [Some("DIRECT"), None], &[]),
            // Who is excepted says nothing where there is no proxy.
            (&[("no_proxy", "x")], "", none, &[]),
        ];
        for (variables, file, apt, expected) in cases {
            let expected: Vec<(String, String)> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(found(variables, file, *apt), expected, "{variables:?} {file:?} {apt:?}");
        }
    }

    #[test]
    fn the_real_apt_says_what_it_is_told() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let said = |text: &str| {
            std::fs::write(file.path(), format!("#clear Acquire::http::Proxy;\n#clear Acquire::https::Proxy;\n{text}"))
                .unwrap();
            let mut command = Command::new("apt-config");
            command.env("APT_CONFIG", file.path());
            apt_config::values(command, OPTIONS)
        };
        if std::process::Command::new("apt-config").output().is_err() {
            eprintln!("skipped: the proxies of the real apt: there is no apt-config here");
            return;
        }
        assert_eq!(said(""), [None, None]);
        let text = "Acquire::http::Proxy \"http://u:p@a.example:3128/\";\nAcquire::https::Proxy \"DIRECT\";\n";
        assert_eq!(said(text), [Some("http://u:p@a.example:3128/".to_owned()), Some("DIRECT".to_owned())]);
    }

    #[test]
    fn no_password_is_shown() {
        let with = Proxies::default().replaced(Some("http://me:secret@proxy.example:3128"));
        assert_eq!(with.shown().as_deref(), Some("http://proxy.example:3128"));
        let bare = Proxies::default().replaced(Some("me:secret@proxy.example:3128"));
        assert_eq!(bare.shown().as_deref(), Some("http://proxy.example:3128"));
        assert!(!format!("{with:?}").contains("secret"), "{with:?}");
        assert!(with.variables().contains(&("https_proxy".into(), "http://me:secret@proxy.example:3128".into())));
        assert!(with.variables().contains(&("NO_PROXY".into(), HERE.into())));
        assert!(with.is_for("http://a/b") && with.is_for("https://a/b") && !with.is_for("file:///a"));
        assert!(!Proxies::default().is_for("http://a/b"));
    }
}
