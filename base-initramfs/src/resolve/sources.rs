//! What a lock is made from: a suite, its updates and its security updates.

use crate::archive::security_beside;
use crate::error::{Attempt, Error, Failure};
use crate::fetch::Fetcher;

/// Which archives there are for a suite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    /// The mirror to resolve against and to download from.
    pub mirror: String,
    /// Whether it has the suite's updates.
    pub updates: bool,
    /// The archive that has the suite's security updates.
    pub security: Option<String>,
}

/// Where security updates come from.
#[derive(Clone, Copy, Debug)]
pub enum Security<'a> {
    /// From nowhere.
    Without,
    /// From this archive.
    At(&'a str),
    /// From beside the mirror, or from the first of these that has some; from nowhere if none has.
    Find(&'a [String]),
}

impl Sources {
    /// Asks the archives what they have.
    ///
    /// Fails if one of them can't tell, and if the one that is named has no security updates.
    pub fn find(suite: &str, mirror: &str, security: Security<'_>, fetcher: &Fetcher) -> Result<Self, Error> {
        let ask = |archive: &str, suite: &str| {
            let url = format!("{}/dists/{suite}/InRelease", archive.trim_end_matches('/'));
            let file = format!("the release file of {suite}");
            fetcher.look(&url).map_err(|failure| Error::Fetch { file, attempts: vec![Attempt { url, failure }] })
        };
        let has = |archive: &str, suite: &str| match ask(archive, suite) {
            Ok(()) => Ok(true),
            // Servers refuse in several ways what they don't have.
            Err(Error::Fetch { attempts, .. })
                if matches!(attempts[..], [Attempt { failure: Failure::NotFound | Failure::Status(_), .. }]) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        };
        let mut sources =
            Self { mirror: mirror.to_owned(), updates: has(mirror, &format!("{suite}-updates"))?, security: None };
        let name = format!("{suite}-security");
        match security {
            Security::Without => {}
            Security::At(place) => {
                ask(place, &name)?;
                sources.security = Some(place.to_owned());
            }
            Security::Find(known) => {
                for place in security_beside(mirror).into_iter().chain(known.iter().cloned()) {
                    if has(&place, &name)? {
                        sources.security = Some(place);
                        break;
                    }
                }
            }
        }
        Ok(sources)
    }
}
