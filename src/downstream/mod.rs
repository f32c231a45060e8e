//! Carriers to local apps, IO without policy: listeners and handshakes on the side runtime, readers and writers of sessions
//! on the feed thread. The relay decides who gets what; nothing here does.
