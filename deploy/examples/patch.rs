//! `patch KNOWN NEW OUT`: writes the patch that makes NEW out of KNOWN (deploy/src/patch.rs), for
//! deploy/build-remote.sh.

use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let [known, new, out] =
        std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "patch KNOWN NEW OUT")?;
    let (known, new) = (std::fs::read(known)?, std::fs::read(new)?);
    let patch = anemos_deploy::patch::make(&new, &known)?;
    if anemos_deploy::patch::apply(&patch, &known, new.len()) != Some(Ok(new)) {
        return Err("the patch does not make what it was made of".into());
    }
    Ok(std::fs::write(out, patch)?)
}
