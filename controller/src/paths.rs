//! Paths that people give. Pure.

use std::path::Path;

/// The directory that a file is in, or would be in: the working directory for a name alone.
pub fn directory_of(file: &Path) -> &Path {
    file.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_alone_is_in_the_working_directory() {
        for (file, dir) in [("a", "."), ("./a", "."), ("b/a", "b"), ("/a", "/"), ("/", ".")] {
            assert_eq!(directory_of(Path::new(file)), Path::new(dir), "{file}");
        }
    }
}
