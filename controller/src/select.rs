//! Which hosts are meant: names, patterns, groups and tags, as the command line and hosts.toml have them. Pure.

use std::fmt;
use std::str::FromStr;

/// More names than these are not listed in an error.
const LISTED: usize = 8;

/// What can be selected.
pub trait Named {
    /// Its name.
    fn name(&self) -> &str;
    /// The groups and tags that it has.
    fn labels(&self) -> &[String];
}

/// One word of a selection: `web1`, `web*`, or `@LABEL` for a group or a tag, which may be a pattern as well.
///
/// `*` stands for any characters, `?` for one, `[a-f]` and `[!a-f]` for one of these, or none of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    glob: glob::Pattern,
    of_labels: bool,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, of_labels) = text.strip_prefix('@').map_or((text, false), |label| (label, true));
        // `**` would be a pattern of paths.
        let odd = |c: char| !c.is_ascii_alphanumeric() && !"._-*?[]!".contains(c);
        if word.is_empty() || word.starts_with('!') || word.contains(odd) || word.contains("**") {
            return Err(format!("`{text}` is no host, no pattern such as `web*`, and no group or tag such as `@web`"));
        }
        let glob = glob::Pattern::new(word).map_err(|why| format!("`{text}` is no pattern: {}", why.msg))?;
        Ok(Self { text: text.to_owned(), glob, of_labels })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pattern {
    /// Whether it means that host.
    pub fn matches(&self, host: &impl Named) -> bool {
        if self.of_labels {
            host.labels().iter().any(|label| self.glob.matches(label))
        } else {
            self.glob.matches(host.name())
        }
    }

    /// An error if it means none of the hosts: a word that was mistyped must not pass for one that means nothing.
    pub fn must_match<H: Named>(&self, hosts: &[H]) -> Result<(), NoMatch> {
        if hosts.iter().any(|host| self.matches(host)) {
            return Ok(());
        }
        let mut known: Vec<String> = if self.of_labels {
            hosts.iter().flat_map(Named::labels).map(|label| format!("@{label}")).collect()
        } else {
            hosts.iter().map(|host| host.name().to_owned()).collect()
        };
        known.sort();
        known.dedup();
        let near = near(&self.text, &known);
        Err(NoMatch { text: self.text.clone(), of_labels: self.of_labels, near, known })
    }
}

/// Those of the names that are nearest to what was written, the nearest first.
fn near(text: &str, known: &[String]) -> Vec<String> {
    let plain = text.to_lowercase().replace(['*', '?'], "");
    let length = plain.chars().count();
    let allowed = (length / 3).clamp(1, 3);
    // What a pattern leaves open is mostly the end.
    let shown = if plain.len() < text.len() { length } else { usize::MAX };
    let mut near: Vec<(usize, &String)> = known
        .iter()
        .map(|name| {
            let name_begins: String = name.to_lowercase().chars().take(shown).collect();
            (strsim::damerau_levenshtein(&plain, &name_begins), name)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .collect();
    near.sort();
    near.into_iter().take(3).map(|(_, name)| name.clone()).collect()
}

/// Nothing is meant by a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoMatch {
    text: String,
    of_labels: bool,
    near: Vec<String>,
    known: Vec<String>,
}

impl NoMatch {
    /// The word.
    pub fn word(&self) -> &str {
        &self.text
    }

    /// What is missing, in words that follow the place where it was looked for.
    pub fn missing(&self) -> String {
        let text = &self.text;
        match (self.of_labels, text.contains(['*', '?', '['])) {
            (true, _) => format!("no group or tag `{text}`"),
            (false, true) => format!("no host like `{text}`"),
            (false, false) => format!("no host `{text}`"),
        }
    }

    /// What may have been meant, if there is anything to say.
    pub fn advice(&self) -> Option<String> {
        if !self.near.is_empty() {
            let near: Vec<String> = self.near.iter().map(|name| format!("`{name}`")).collect();
            return Some(format!("did you mean {}?", near.join(" or ")));
        }
        match self.known.len() {
            0 => None,
            1..=LISTED => Some(format!("it has {}", self.known.join(", "))),
            count => Some(format!("it has {} and {} more", self.known[..LISTED].join(", "), count - LISTED)),
        }
    }
}

/// Which hosts are meant: those of `hosts`, of these those of `limit`, and none of `exclude`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These; none stands for all.
    pub hosts: Vec<Pattern>,
    /// Only these of them; none stands for no limit.
    pub limit: Vec<Pattern>,
    /// Not these.
    pub exclude: Vec<Pattern>,
}

impl Selection {
    /// Whether nothing was said, so that all are meant.
    pub fn is_all(&self) -> bool {
        self.hosts.is_empty() && self.limit.is_empty() && self.exclude.is_empty()
    }

    /// The hosts that are meant, in their own order. `place` is where they are, for errors.
    pub fn pick<'h, H: Named>(&self, hosts: &'h [H], place: &str) -> Result<Vec<&'h H>, String> {
        for pattern in [&self.hosts, &self.limit, &self.exclude].into_iter().flatten() {
            pattern.must_match(hosts).map_err(|none| {
                let advice = none.advice().map_or_else(String::new, |advice| format!("; {advice}"));
                format!("{place} has {}{advice}", none.missing())
            })?;
        }
        let any = |patterns: &[Pattern], host: &H| patterns.iter().any(|pattern| pattern.matches(host));
        let meant = |host: &&H| {
            (self.hosts.is_empty() || any(&self.hosts, host))
                && (self.limit.is_empty() || any(&self.limit, host))
                && !any(&self.exclude, host)
        };
        let picked: Vec<&H> = hosts.iter().filter(meant).collect();
        if picked.is_empty() && !self.is_all() {
            return Err(format!("of the hosts of {place} none is left by what was named, --limit and --exclude"));
        }
        Ok(picked)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug)]
    struct Host(&'static str, Vec<String>);

    impl Named for Host {
        fn name(&self) -> &str {
            self.0
        }

        fn labels(&self) -> &[String] {
            &self.1
        }
    }

    fn fleet() -> Vec<Host> {
        let host = |name, labels: &[&str]| Host(name, labels.iter().map(|&label| label.to_owned()).collect());
        vec![
            host("web1", &["web", "rack-a"]),
            host("web2", &["web", "rack-b"]),
            host("db1", &["rack-b"]),
            host("x", &[]),
        ]
    }

    fn patterns(words: &str) -> Vec<Pattern> {
        words.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    fn picked(hosts: &str, limit: &str, exclude: &str) -> Result<String, String> {
        let selection = Selection { hosts: patterns(hosts), limit: patterns(limit), exclude: patterns(exclude) };
        let fleet = fleet();
        let picked = selection.pick(&fleet, "hosts.toml")?;
        Ok(picked.iter().map(|host| host.0).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn what_is_meant() {
        for (hosts, limit, exclude, expected) in [
            ("", "", "", "web1 web2 db1 x"),
            ("db1 web1 db1", "", "", "web1 db1"),
            ("web*", "", "", "web1 web2"),
            ("*1", "", "", "web1 db1"),
            ("web?", "", "web2", "web1"),
            ("[d-w]*[!2]", "", "", "web1 db1"),
            ("@web", "", "", "web1 web2"),
            ("@rack-*", "", "@rack-a", "web2 db1"),
            ("@web x", "@rack-b", "", "web2"),
            ("", "", "web*", "db1 x"),
        ] {
            assert_eq!(picked(hosts, limit, exclude).as_deref(), Ok(expected), "{hosts} | {limit} | {exclude}");
        }
    }

    #[test]
    fn what_means_nothing_is_an_error_with_the_near_names() {
        for (hosts, limit, exclude, expected) in [
            ("wbe1", "", "", "hosts.toml has no host `wbe1`; did you mean `web1`?"),
            ("wbe*", "", "", "hosts.toml has no host like `wbe*`; did you mean `web1` or `web2`?"),
            ("mail", "", "", "hosts.toml has no host `mail`; it has db1, web1, web2, x"),
            ("", "@wbe", "", "hosts.toml has no group or tag `@wbe`; did you mean `@web`?"),
            // One that is spared must not go because its name was mistyped.
            ("", "", "db2", "hosts.toml has no host `db2`; did you mean `db1`?"),
            ("web1", "db1", "", "of the hosts of hosts.toml none is left by what was named, --limit and --exclude"),
            ("web1", "", "web*", "of the hosts of hosts.toml none is left by what was named, --limit and --exclude"),
        ] {
            assert_eq!(picked(hosts, limit, exclude), Err(expected.to_owned()));
        }
    }

    #[test]
    fn words_that_are_none() {
        for word in ["", "@", "a b", "web**", "web[", "a/b", "ä", "a@b", "!web1"] {
            assert!(word.parse::<Pattern>().is_err(), "{word}");
        }
    }

    proptest! {
        /// Whatever is written, none that is excluded is picked, and nothing outside of the limit.
        #[test]
        fn exclusion_and_limit_hold(
            hosts in prop::collection::vec("[a-zA-Z0-9@*?]{1,5}", 0..3),
            limit in prop::collection::vec("(web\\*|@rack-b|\\*)", 0..2),
            exclude in prop::collection::vec("(web1|@web|d\\*)", 0..2),
        ) {
            let parse = |words: &[String]| words.iter().filter_map(|word| word.parse().ok()).collect::<Vec<Pattern>>();
            let selection = Selection { hosts: parse(&hosts), limit: parse(&limit), exclude: parse(&exclude) };
            let fleet = fleet();
            for host in selection.pick(&fleet, "x").into_iter().flatten() {
                prop_assert!(!selection.exclude.iter().any(|pattern| pattern.matches(host)));
                prop_assert!(selection.limit.is_empty() || selection.limit.iter().any(|one| one.matches(host)));
            }
        }
    }
}
