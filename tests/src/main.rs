//! `anemos-lab`: the lab from the command line.

fn main() {
    let lab = lab::Lab::open().unwrap();
    let t = std::time::Instant::now();
    let f = if std::env::args().any(|a| a == "uefi") { lab::Firmware::Uefi } else { lab::Firmware::Bios };
    let n = if std::env::args().any(|a| a == "static") { lab::Net::Static } else { lab::Net::Dhcp };
    let m = lab::Machine::start(&lab, lab::Spec { firmware: f, net: n, ..lab::Spec::new("try") }).unwrap_or_else(|e| panic!("{e}"));
    println!("started {:?}", t.elapsed());
    println!("{}", m.ssh("uname -a; date; ip a; ip r; ip -6 r; cat /etc/resolv.conf; ls /sys/firmware/efi; lsblk; free -m; df -h /").unwrap_or_else(|e| panic!("{e}")));
    println!("ssh {:?}", t.elapsed());
}
