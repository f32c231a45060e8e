//! JSON in its one canonical form (RFC 8785, "JCS"): a channel's params are part of its identity, so equal params must be
//! equal text. Members are sorted by UTF-16 code units, strings escaped minimally, numbers written as ECMAScript does.
//!
//! Invariant: canonical text is a fixed point, and two texts have the same form iff they hold the same data.
//! Deliberately stricter than the RFC: whole numbers that would be rounded are refused, repeated members too.

use serde_json::value::RawValue;

use super::request::fields::Fields;

/// Whole numbers below this are kept exactly by every reader of JSON.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// The canonical form of a JSON object, or what is wrong with it. The caller has bounded size and depth.
pub fn object(text: &str) -> Result<String, String> {
    let raw: &RawValue = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if !raw.get().starts_with('{') {
        return Err("params must be a JSON object".to_owned());
    }
    let mut out = String::with_capacity(text.len());
    value(raw.get(), &mut out)?;
    Ok(out)
}

fn value(text: &str, out: &mut String) -> Result<(), String> {
    match text.as_bytes().first() {
        Some(b'{') => members(text, out),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).map_err(|e| e.to_string())?;
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                value(item.get(), out)?;
            }
            out.push(']');
            Ok(())
        }
        Some(b'"') => {
            string(&serde_json::from_str::<String>(text).map_err(|e| e.to_string())?, out);
            Ok(())
        }
        Some(b't' | b'f' | b'n') => {
            out.push_str(text);
            Ok(())
        }
        _ => number(text, out),
    }
}

fn members(text: &str, out: &mut String) -> Result<(), String> {
    let mut list = Fields::read(text)?.into_list();
    list.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    out.push('{');
    for (at, (name, item)) in list.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        string(name, out);
        out.push(':');
        value(item.get(), out)?;
    }
    out.push('}');
    Ok(())
}

/// RFC 8785 section 3.2.2.2.
fn string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            '\0'..='\u{1f}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            _ => out.push(c),
        }
    }
    out.push('"');
}

fn number(text: &str, out: &mut String) -> Result<(), String> {
    let number: f64 = text.parse().map_err(|_| format!("`{text}` is no JSON value"))?;
    if !number.is_finite() {
        return Err(format!("the number {text} is too large: write it as a string"));
    }
    let whole = text.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    let written = ecmascript(number);
    if whole && number.abs() >= EXACT && written != text {
        return Err(format!("the number {text} would lose digits: write it as a string"));
    }
    out.push_str(&written);
    Ok(())
}

/// ECMAScript's `Number::toString` for a finite number (ECMA-262 section 6.1.6.1.20, which RFC 8785 requires).
fn ecmascript(number: f64) -> String {
    if number == 0.0 {
        return "0".to_owned();
    }
    // Rust's exponent form has the shortest digits that read back the same, as ECMAScript wants them: `-d.ddde-n`.
    let text = format!("{:e}", number.abs());
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if number < 0.0 { "-" } else { "" };
    let count = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    // The decimal point stands behind this many digits.
    let point = exponent + 1;
    let body = if (count..=21).contains(&point) {
        format!("{digits}{}", "0".repeat(usize::try_from(point - count).unwrap_or(0)))
    } else if (1..=21).contains(&point) {
        let (before, after) = digits.split_at(usize::try_from(point).unwrap_or(0));
        format!("{before}.{after}")
    } else if (-5..=0).contains(&point) {
        format!("0.{}{digits}", "0".repeat(usize::try_from(-point).unwrap_or(0)))
    } else {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        let plus = if exponent < 0 { "" } else { "+" };
        format!("{first}{dot}{rest}e{plus}{exponent}")
    };
    format!("{sign}{body}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Numbers of RFC 8785 appendix B, and of ECMAScript's rules at their edges.
    #[test]
    fn numbers_read_as_ecmascript_writes_them() {
        for (bits, text) in [
            (0x0000_0000_0000_0000, "0"),
            (0x8000_0000_0000_0000, "0"),
            (0x0000_0000_0000_0001, "5e-324"),
            (0x8000_0000_0000_0001, "-5e-324"),
            (0x7fef_ffff_ffff_ffff, "1.7976931348623157e+308"),
            (0x4340_0000_0000_0000, "9007199254740992"),
            (0x4430_0000_0000_0000, "295147905179352830000"),
            (0x44b5_2d02_c7e1_4af5, "9.999999999999997e+22"),
            (0x44b5_2d02_c7e1_4af6, "1e+23"),
            (0x444b_1ae4_d6e2_ef4e, "999999999999999700000"),
            (0x444b_1ae4_d6e2_ef50, "1e+21"),
            (0x3eb0_c6f7_a0b5_ed8c, "9.999999999999997e-7"),
            (0x3eb0_c6f7_a0b5_ed8d, "0.000001"),
            (0x41b3_de43_5555_5553, "333333333.3333332"),
            (0xbecb_f647_612f_3696, "-0.0000033333333333333333"),
        ] {
            assert_eq!(ecmascript(f64::from_bits(bits)), text);
        }
    }

    #[test]
    fn members_are_sorted_by_utf16_and_strings_escaped_minimally() {
        let text = r#" {"\ufb33":1, "\ud83d\ude00":2, "\u20ac":3, "\r":4, "1":{"b":[1.0, 2e1 ],"a":null}, "\u0080":"\u0008\u001f\u20ac/"} "#;
        assert_eq!(
            object(text).unwrap(),
            "{\"\\r\":4,\"1\":{\"a\":null,\"b\":[1,20]},\"\u{80}\":\"\\b\\u001f€/\",\"€\":3,\"😀\":2,\"\u{fb33}\":1}"
        );
    }

    #[test]
    fn what_cannot_keep_its_meaning_is_refused() {
        for bad in
            ["[]", "1", "{", "{\"a\":9007199254740993}", "{\"a\":1e999}", "{\"a\":1,\"a\":2}", "{\"a\":\"\\ud800\"}"]
        {
            assert!(object(bad).is_err(), "{bad}");
        }
        assert!(object("{\"a\":9007199254740992}").is_ok());
    }

    proptest! {
        #[test]
        fn canonical_text_is_a_fixed_point(numbers in prop::collection::btree_map(".{0,6}", any::<f64>(), 0..5)) {
            let map: serde_json::Map<String, serde_json::Value> = numbers
                .into_iter()
                .filter(|(_, n)| n.is_finite())
                .map(|(name, n)| (name, n.into()))
                .collect();
            let once = object(&serde_json::Value::Object(map).to_string()).unwrap();
            prop_assert_eq!(object(&once).unwrap(), once);
        }
    }
}
