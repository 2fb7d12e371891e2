//! What a host's certificate says (OpenSSH's PROTOCOL.certkeys). Whether that is to be trusted, known_hosts says.

use russh::keys::ssh_key::certificate::CertType;
use russh::keys::{Algorithm, Certificate, HashAlg, PublicKey};

use super::HostKey;
use super::identities::{now, out_of_date};

/// A certificate that a host has shown for the key that it proved to have.
#[derive(Debug, Clone)]
pub struct HostCertificate {
    /// The authority's key.
    pub authority: HostKey,
    /// What the authority calls it.
    pub id: String,
    /// The names for which it is valid; if there are none, all.
    pub names: Vec<String>,
    /// The certificate in its text form, `ALGORITHM BASE64`.
    pub line: String,
    /// Why it is no certificate of any host's now.
    fault: Option<String>,
}

impl HostCertificate {
    pub(super) fn of(certificate: &Certificate) -> Self {
        let mut plain = certificate.clone();
        plain.set_comment("");
        let authority = PublicKey::new(certificate.signature_key().clone(), "");
        Self {
            authority: HostKey::of(&authority),
            id: certificate.key_id().to_owned(),
            names: certificate.valid_principals().to_vec(),
            line: plain.to_openssh().map(|line| line.trim().to_owned()).unwrap_or_default(),
            fault: fault(certificate, now()),
        }
    }

    /// Why it does not prove that a host is `name`, as far as that is told without its authority.
    pub fn fault(&self, name: &str) -> Option<String> {
        let others = || {
            let is_other = !self.names.is_empty() && !self.names.iter().any(|valid| valid == name);
            is_other.then(|| format!("the certificate is for {}, not for {name}", self.names.join(", ")))
        };
        self.fault.clone().or_else(others)
    }
}

fn fault(certificate: &Certificate, now: u64) -> Option<String> {
    if certificate.cert_type() != CertType::Host {
        return Some("the certificate is one of a user, not of a host".into());
    }
    // OpenSSH has no critical option for hosts, and refuses what it doesn't know.
    if let Some((name, _)) = certificate.critical_options().iter().next() {
        return Some(format!("the certificate has the critical option {name}, which is not known"));
    }
    if matches!(certificate.signature().algorithm(), Algorithm::Rsa { hash: None } | Algorithm::Dsa) {
        return Some("the certificate is signed with SHA-1, which is broken".into());
    }
    let authority = certificate.signature_key().fingerprint(HashAlg::Sha256);
    if certificate.validate_at(certificate.valid_after(), [&authority]).is_err() {
        return Some("the certificate's signature is not its authority's".into());
    }
    out_of_date(certificate.valid_after(), certificate.valid_before(), now)
}
