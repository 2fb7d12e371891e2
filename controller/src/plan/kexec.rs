//! What of the host's kernel, and of what that runs in, speaks against the boot of another kernel.

use anemos_proto::host::{HostFacts, Inside};
use anemos_proto::stage::KernelSource;

/// Loads that a deployment takes where they are counted: one for the kernel, and one to take it back should it be given
/// up.
const LOADS: u32 = 2;

/// Why no other kernel can be booted, or not the host's own where that `is_wanted`.
pub(super) fn refusal(facts: &HostFacts, is_wanted: bool) -> Option<String> {
    let kexec = &facts.kexec;
    let refused = kexec.refused.as_ref().filter(|_| is_wanted);
    let why = match (&facts.inside, kexec.loads_left) {
        (Inside::Container(kind), _) => format!(
            "it is a container ({kind}): its kernel is that of the system around it, and nothing in it can boot \
             another one. Deploy the system around it, or a virtual machine"
        ),
        (Inside::XenPv, _) => "it is a paravirtualised domain of Xen (PV), where Linux has no kexec. Have it made a \
                               domain of the kind HVM or PVH; where it is Xen's own (dom0), boot it without Xen"
            .into(),
        _ if kexec.disabled => "kexec is switched off until the next boot (kernel.kexec_load_disabled = 1)".into(),
        _ if !kexec.file_load && !kexec.load => "the running kernel has no kexec".into(),
        (_, Some(left)) if left < LOADS => format!(
            "until the next boot only {left} more kernels may be loaded for kexec \
             (kernel.kexec_load_limit_reboot = {left}), and a deployment takes {LOADS} loads: the second takes back \
             the first, should it be given up"
        ),
        _ if kexec.is_locked_down() && !kexec.file_load => format!(
            "kernel lockdown is `{}`, where only kexec_file_load loads a kernel, and the running kernel was built \
             without it",
            kexec.lockdown
        ),
        _ => format!(
            "the running kernel wants signatures of what it loads, and does not load the image that it was started \
             from: {}. Where the firmware's Secure Boot is off, nobody has given it the keys to check them by. Boot it \
             without lockdown (`lockdown=` on its command line) or IMA's policy for kexec, or have it boot the kernel \
             from base.lock (kernel = \"locked\") if it trusts Debian's signature",
            refused?
        ),
    };
    Some(why)
}

/// What may keep the kernel that boots from being loaded, or from coming up. The host's own is proposed where it
/// `host_fits`.
pub(super) fn warnings(facts: &HostFacts, boots: KernelSource, host_fits: bool) -> Vec<String> {
    let kexec = &facts.kexec;
    let mut warnings = Vec::new();
    if kexec.is_locked_down() {
        warnings.push(format!("kernel lockdown is `{}`: only a signed kernel will load", kexec.lockdown));
    }
    if kexec.appraised {
        warnings.push("IMA appraises what kexec loads: only a kernel with a signature that it trusts will load".into());
    }
    if boots == KernelSource::Locked && (kexec.is_locked_down() || kexec.appraised) {
        let other = if host_fits { ", and the host's own (kernel = \"host\") would" } else { "" };
        warnings.push(format!(
            "the kernel from base.lock has Debian's signature, which this machine may not trust: it may not load{other}"
        ));
    }
    if let Inside::Encrypted(kind) = &facts.inside {
        warnings.push(format!(
            "its memory is encrypted ({kind}): few kernels can boot another one there, with SEV-SNP and TDX none \
             before 6.11, and this one is {}. If it hangs, only a reset by hand brings the old system back",
            facts.kernel_release
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::super::tests::facts;
    use super::*;

    type Change = fn(&mut HostFacts);

    #[test]
    fn no_other_kernel_boots() {
        let cases: &[(Change, Option<&str>)] = &[
            (|_| {}, None),
            (|f| f.inside = Inside::Container("lxc".into()), Some("it is a container (lxc): its kernel is that of")),
            (
                |f| f.inside = Inside::XenPv,
                Some("it is a paravirtualised domain of Xen (PV), where Linux has no kexec"),
            ),
            (|f| f.inside = Inside::Encrypted("TDX".into()), None),
            (|f| f.kexec.disabled = true, Some("kexec is switched off until the next boot")),
            (|f| (f.kexec.load, f.kexec.file_load) = (false, false), Some("the running kernel has no kexec")),
            (|f| f.kexec.loads_left = Some(0), Some("until the next boot only 0 more kernels may be loaded")),
            (|f| f.kexec.loads_left = Some(1), Some("until the next boot only 1 more kernels may be loaded")),
            (|f| f.kexec.loads_left = Some(2), None),
            (|f| f.kexec.lockdown = "integrity".into(), None),
            (
                |f| (f.kexec.lockdown, f.kexec.file_load) = ("integrity".into(), false),
                Some("kernel lockdown is `integrity`, where only kexec_file_load loads"),
            ),
            (
                |f| f.kexec.refused = Some("no key".into()),
                Some("the running kernel wants signatures of what it loads, and does not load the image"),
            ),
        ];
        for (number, (change, expected)) in cases.iter().enumerate() {
            let mut facts = facts();
            change(&mut facts);
            let found = refusal(&facts, true);
            let said = |why: &String| expected.is_some_and(|expected| why.starts_with(expected));
            assert_eq!(found.is_some(), expected.is_some(), "{number}: {found:?}");
            assert!(found.iter().all(said), "{number}: {found:?}");
        }
    }

    #[test]
    fn only_its_own_kernel_is_known_to_be_refused() {
        let mut facts = facts();
        facts.kexec.refused = Some("no key".into());
        assert!(refusal(&facts, true).is_some_and(|why| why.contains("from: no key. Where")));
        assert_eq!(refusal(&facts, false), None);
    }

    #[test]
    fn what_may_keep_it_from_booting() {
        use KernelSource::{Host, Locked};
        let cases: &[(Change, KernelSource, &[&str])] = &[
            (|_| {}, Locked, &[]),
            (|f| f.kexec.lockdown = "integrity".into(), Host, &["kernel lockdown is `integrity`"]),
            (
                |f| f.kexec.lockdown = "confidentiality".into(),
                Locked,
                &["kernel lockdown is `confidentiality`", "the kernel from base.lock has Debian's signature"],
            ),
            (|f| f.kexec.appraised = true, Host, &["IMA appraises"]),
            (|f| f.kexec.appraised = true, Locked, &["IMA appraises", "the kernel from base.lock has"]),
            (|f| f.inside = Inside::Encrypted("SEV-ES".into()), Host, &["its memory is encrypted (SEV-ES)"]),
        ];
        for (number, (change, boots, expected)) in cases.iter().enumerate() {
            let mut facts = facts();
            change(&mut facts);
            let found = warnings(&facts, *boots, true);
            let same = found.len() == expected.len() && found.iter().zip(*expected).all(|(a, b)| a.starts_with(b));
            assert!(same, "{number}: {found:#?}");
        }
    }
}
