//! Events as subscriptions with other wishes see them: made once for all who wish the same.
//!
//! A view begins with its first reader and makes its events as they are admitted; whatever it does not hold is made again for
//! who asks. Bounded: in number, and each in entries and bytes; beyond that sharing ends, and nothing else.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::protocol::entry;
use crate::protocol::frame::{Entry, EntryKind};
use crate::protocol::selection::Selection;

/// Views of one channel.
const VIEWS_MAX: usize = 16;
/// Events that a view holds, …
const MADE_MAX: usize = 256;
/// … and the bytes of their text.
const MADE_BYTES: usize = 1 << 20;

/// The views of one channel.
#[derive(Debug, Default)]
pub struct Views(Vec<View>);

#[derive(Debug)]
struct View {
    selection: Arc<Selection>,
    readers: usize,
    made: VecDeque<(u64, Option<Arc<Entry>>)>,
    bytes: usize,
}

impl Views {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A reader came.
    pub fn enter(&mut self, selection: &Arc<Selection>) {
        let room = self.0.len() < VIEWS_MAX;
        match self.0.iter_mut().find(|view| view.selection == *selection) {
            Some(view) => view.readers += 1,
            None if room => {
                let selection = Arc::clone(selection);
                self.0.push(View { selection, readers: 1, made: VecDeque::new(), bytes: 0 });
            }
            None => {}
        }
    }

    /// A reader went.
    pub fn leave(&mut self, selection: &Selection) {
        let Some(at) = self.0.iter().position(|view| *view.selection == *selection) else { return };
        self.0[at].readers -= 1;
        if self.0[at].readers == 0 {
            self.0.swap_remove(at);
        }
    }

    /// An event was admitted.
    pub fn make(&mut self, event: &Arc<Entry>) {
        for view in &mut self.0 {
            let seen = seen(&view.selection, event);
            view.bytes += seen.as_ref().map_or(0, |entry| entry.text.len());
            view.made.push_back((event.offset, seen));
            while view.made.len() > MADE_MAX || view.bytes > MADE_BYTES {
                let Some((_, gone)) = view.made.pop_front() else { break };
                view.bytes -= gone.map_or(0, |entry| entry.text.len());
            }
        }
    }

    /// An entry as that selection shows it; `None` if it shows nothing of it.
    pub fn see(&self, selection: &Selection, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let view = self.0.iter().find(|view| *view.selection == *selection);
        let made = view.and_then(|view| {
            let at = view.made.binary_search_by_key(&entry.offset, |(offset, _)| *offset).ok()?;
            view.made.get(at)
        });
        made.map_or_else(|| seen(selection, entry), |(_, entry)| entry.clone())
    }
}

/// An entry with the selected members of its payload. What is no event stays as it is; upstream's statement of the whole
/// channel counts even where it has none of them.
fn seen(selection: &Selection, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
    let data = match entry.kind {
        EntryKind::Event => selection.of(entry.data())?,
        EntryKind::Snapshot => selection.of(entry.data()).unwrap_or_else(|| b"{}".to_vec()),
        _ => return Some(Arc::clone(entry)),
    };
    Some(Arc::new(entry::with_data(entry, &data)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::time::Mono;

    fn event(offset: u64, data: &str) -> Arc<Entry> {
        let text = format!("{{\"data\":{data}}}");
        let data_at = 8..u32::try_from(text.len()).unwrap() - 1;
        let (kind, received) = (EntryKind::Event, Mono(0));
        let text = text.into_bytes().into();
        Arc::new(Entry { offset, prev: None, kind, received, key: None, text, type_at: 0..0, data_at })
    }

    fn selection(pointer: &str) -> Arc<Selection> {
        Arc::new(Selection::new(&[pointer.to_owned()]).unwrap())
    }

    #[test]
    fn what_is_seen_is_made_once_for_all_who_wish_the_same() {
        let mut views = Views::default();
        let early = event(1, r#"{"p":1,"q":2}"#);
        views.enter(&selection("/p"));
        views.enter(&selection("/p"));
        assert_eq!(views.0.len(), 1);
        let entry = event(2, r#"{"p":1.10,"q":2}"#);
        views.make(&entry);
        let seen = views.see(&selection("/p"), &entry).unwrap();
        assert_eq!(&seen.text[..], br#"{"data":{"p":1.10}}"#);
        assert!(Arc::ptr_eq(&seen, &views.see(&selection("/p"), &entry).unwrap()));
        assert_eq!(views.see(&selection("/p"), &early).unwrap().data(), br#"{"p":1}"#, "from before the view");
        assert!(views.see(&selection("/r"), &entry).is_none());
        views.leave(&selection("/p"));
        assert!(!views.is_empty());
        views.leave(&selection("/p"));
        assert!(views.is_empty());
    }

    #[test]
    fn views_are_bounded() {
        let mut views = Views::default();
        for n in 0..VIEWS_MAX + 5 {
            views.enter(&selection(&format!("/{n}")));
        }
        views.enter(&selection("/p"));
        assert_eq!(views.0.len(), VIEWS_MAX);
        let large = format!("{{\"1\":\"{}\"}}", "x".repeat(MADE_BYTES / 4));
        (1..2 * MADE_MAX as u64).for_each(|n| views.make(&event(n, if n % 9 == 0 { &large } else { "{}" })));
        assert!(views.0.iter().all(|view| view.made.len() <= MADE_MAX && view.bytes <= MADE_BYTES));
        assert!(views.see(&selection("/p"), &event(1, r#"{"p":1}"#)).is_some());
    }
}
