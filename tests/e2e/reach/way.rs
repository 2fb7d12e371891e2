//! How the workstation gets in, and becomes root, and with what payload.

use std::fs;

use lab::anemos::Finished;
use lab::{Context, Lab, Result};

use crate::r#become::give_sudo;
use crate::deployment::{Deployment, LONG, UP};
use crate::ways::Jump;

/// A way in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As root, by a key.
    Root,
    /// As another user, by a key, who has sudo without a password.
    Sudo,
    /// As root, by a key, through a jump host of ssh_config.
    Jump,
    /// As root, by a key, with an IMGBUILD.
    Image,
}

/// A way in that is open.
pub enum Entrance {
    Straight,
    Through(Jump),
}

/// As clouds do it.
const ADMIN: &str = r"set -e
useradd -m -s /bin/bash admin
install -d -m 700 -o admin -g admin /home/admin/.ssh
install -m 600 -o admin -g admin /root/.ssh/authorized_keys /home/admin/.ssh/
(umask 337; echo 'admin ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/admin)
if command -v restorecon >/dev/null; then restorecon -R /home/admin; fi";

impl Way {
    /// All of them, in the order of the document.
    pub const ALL: [Self; 4] = [Self::Root, Self::Sudo, Self::Jump, Self::Image];

    /// Its name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Sudo => "sudo",
            Self::Jump => "jump",
            Self::Image => "imgbuild",
        }
    }

    /// What it is, for the document.
    pub fn what(self) -> &'static str {
        match self {
            Self::Root => "root's key",
            Self::Sudo => "a user's key, and sudo",
            Self::Jump => "a jump host",
            Self::Image => "root's key, and an IMGBUILD",
        }
    }

    /// Prepares machine and workstation.
    pub fn open(self, lab: &Lab, web: &Deployment) -> Result<Entrance> {
        match self {
            Self::Root | Self::Image => Ok(Entrance::Straight),
            Self::Jump => Jump::before(lab, web).map(Entrance::Through),
            Self::Sudo => {
                give_sudo(web)?;
                web.machine.ssh(ADMIN)?;
                let table = fs::read_to_string(web.anemos.dir().join("hosts.toml")).context("hosts.toml")?;
                web.anemos.write("hosts.toml", &table.replace("user = \"root\"\n", "user = \"admin\"\n"))?;
                Ok(Entrance::Straight)
            }
        }
    }
}

impl Entrance {
    /// `anemos up` through it.
    pub fn up(&self, web: &Deployment) -> Result<Finished> {
        let mut command = web.anemos.command(UP);
        if let Self::Through(jump) = self {
            jump.lead(&mut command);
        }
        web.anemos.start(command)?.wait(4 * LONG)
    }
}
