//! Sizes as people write them: `512`, `256KiB`, `1MiB`, `1GB`. Not here: which size makes sense where.

/// Units, largest first, in bytes: powers of 1,024 and of 1,000 (IEC 80000-13).
const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads a whole number of bytes, with or without a unit.
pub fn parse(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().ok()?;
    let factor = if unit.is_empty() { 1 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    number.checked_mul(factor)
}

/// Writes it in the largest power of 1,024 that needs no fraction.
pub fn write(bytes: u64) -> String {
    let binary = UNITS.iter().filter(|(name, _)| name.ends_with("iB") || *name == "B");
    match binary.into_iter().find(|(_, unit)| bytes != 0 && bytes.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", bytes / unit),
        None => "0B".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_a_round_trip() {
        for text in ["0", "1", "512B", "256KiB", "1MiB", "3GiB", "1KB", "5MB", "1GB"] {
            let read = parse(text).unwrap();
            assert_eq!(parse(&write(read)), Some(read), "{text}");
        }
        assert_eq!(parse("256KiB"), Some(262_144));
        assert_eq!(parse("512KB"), Some(512_000));
        assert_eq!(write(262_144), "256KiB");
        assert_eq!(write(1_500), "1500B");
    }

    #[test]
    fn what_is_no_size_does_not_parse() {
        for text in ["", "KiB", "1.5MiB", "-1", "1 MiB", "1mib", "1TiB", "99999999999999999999", "99999999999999GiB"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
