//! Which hosts a command is about: of a file, or of a run.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::select::{Pattern, Selection};

/// Which hosts of which hosts.toml.
#[derive(Debug, Args)]
pub struct OfFile {
    /// Describes the hosts: a word that ends in .toml or has a / in it. Default: $ANEMOS_HOSTS, else ./hosts.toml
    #[arg(value_name = "HOSTS.TOML")]
    pub first: Option<OsString>,
    /// Only these hosts of it: names, patterns such as 'web*', groups and tags as @NAME
    #[arg(value_name = "HOST", value_delimiter = ',')]
    pub hosts: Vec<String>,
    /// Which of them.
    #[command(flatten)]
    pub less: Less,
}

/// What narrows down which hosts are meant.
#[derive(Debug, Clone, Default, Args)]
pub struct Less {
    /// Of the hosts that are meant only these; written as HOST is
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub limit: Vec<Pattern>,
    /// Of the hosts that are meant not these; written as HOST is
    #[arg(long, value_name = "HOST", value_delimiter = ',')]
    pub exclude: Vec<Pattern>,
}

/// Which hosts of which run.
#[derive(Debug, Clone, Default, Args)]
pub struct OfRun {
    /// Hosts of the run: names, patterns such as 'web*', groups and tags as @NAME. The first word may be a run instead
    #[arg(value_name = "HOST", value_delimiter = ',')]
    pub words: Vec<String>,
    /// The run; its beginning or end is enough. Default: the newest that has the hosts
    #[arg(long, value_name = "RUN")]
    pub run: Option<String>,
    /// Which of them.
    #[command(flatten)]
    pub less: Less,
}

/// What is called so where no other is named.
const HOSTS_FILE: &str = "hosts.toml";

/// Names a hosts.toml for all commands that want one.
pub const HOSTS_VARIABLE: &str = "ANEMOS_HOSTS";

/// Whether a word of the command line is a file. That depends on nothing but the word, so that no file that happens to
/// lie there is taken for one, and no host either.
fn is_file(word: &OsStr) -> bool {
    let word = word.to_string_lossy();
    word.ends_with(".toml") || word.contains('/')
}

impl OfFile {
    /// Whether no hosts.toml is named.
    pub fn names_no_file(&self) -> bool {
        self.first.as_deref().is_none_or(|first| !is_file(first))
    }

    /// The hosts that are named, one a word.
    pub fn words(&self) -> Result<Vec<String>, String> {
        let (_, Selection { hosts, .. }) = self.meant(None)?;
        Ok(hosts.iter().map(ToString::to_string).collect())
    }

    /// Whether no host is named, so that all are meant but for what narrows them down.
    pub fn names_no_host(&self) -> bool {
        self.hosts.is_empty() && self.first.as_deref().is_none_or(is_file)
    }

    /// The hosts.toml, and which of its hosts are meant. `variable` is what $ANEMOS_HOSTS says.
    pub fn meant(&self, variable: Option<OsString>) -> Result<(PathBuf, Selection), String> {
        let mut words = Vec::new();
        let file = match self.first.as_ref() {
            Some(first) if is_file(first) => PathBuf::from(first),
            first => {
                let first = first.map(|first| first.to_str().ok_or("the name of a host is text"));
                words.extend(first.transpose()?.into_iter().flat_map(|first| first.split(',')));
                match variable.filter(|file| !file.is_empty()) {
                    // So that it can be written on a command line that is shown.
                    Some(file) if !is_file(&file) => Path::new(".").join(file),
                    Some(file) => file.into(),
                    None => HOSTS_FILE.into(),
                }
            }
        };
        words.extend(self.hosts.iter().map(String::as_str));
        if let Some(late) = words.iter().find(|word| is_file(word.as_ref())) {
            return Err(format!("`{late}` is a file, not a host: one hosts.toml comes before all hosts"));
        }
        let hosts = words.into_iter().map(str::parse).collect::<Result<_, _>>()?;
        let Less { limit, exclude } = self.less.clone();
        Ok((file, Selection { hosts, limit, exclude }))
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    /// The file and the hosts that a command line is about.
    fn meant(line: &str, variable: Option<&str>) -> Result<String, String> {
        let command = OfFile::augment_args(Command::new("plan"));
        let matches = command.try_get_matches_from(std::iter::once("plan").chain(line.split_whitespace()));
        let of = matches.and_then(|matches| OfFile::from_arg_matches(&matches)).map_err(|error| error.to_string())?;
        let (file, selection) = of.meant(variable.map(OsString::from))?;
        let words = |patterns: &[Pattern]| patterns.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let Selection { hosts, limit, exclude } = selection;
        Ok(format!("{}|{}|{}|{}", file.display(), words(&hosts), words(&limit), words(&exclude)))
    }

    #[test]
    fn the_first_word_is_a_file_or_a_host() {
        for (line, variable, expected) in [
            ("", None, "hosts.toml|||"),
            ("", Some("fleet/hosts.toml"), "fleet/hosts.toml|||"),
            ("", Some(""), "hosts.toml|||"),
            ("", Some("fleet"), "./fleet|||"),
            ("other.toml", Some("fleet.toml"), "other.toml|||"),
            ("other.toml web1 db1", None, "other.toml|web1 db1||"),
            ("web1 db*", None, "hosts.toml|web1 db*||"),
            ("web1,db1 @x", Some("fleet.toml"), "fleet.toml|web1 db1 @x||"),
            ("./hosts web1", None, "./hosts|web1||"),
            ("/dev/stdin", None, "/dev/stdin|||"),
            ("--limit a,b --exclude c web*", None, "hosts.toml|web*|a b|c"),
        ] {
            assert_eq!(meant(line, variable).as_deref(), Ok(expected), "{line} {variable:?}");
        }
        let late = meant("web1 hosts.toml", None).unwrap_err();
        assert_eq!(late, "`hosts.toml` is a file, not a host: one hosts.toml comes before all hosts");
        for wrong in ["web1 w[", "--exclude !web1", "a@b"] {
            let error = meant(wrong, None).unwrap_err();
            assert!(error.contains("is no "), "{error}");
        }
    }
}
