//! Where a trace comes from: a file or standard input, read in pieces.

use std::fs::File;
use std::io;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use trace_decode::text;

use crate::failure::Failure;

/// Bytes read at once. 1 MiB: large enough that reading costs nothing beside decoding, small
/// enough to stay in the cache of a processor and far below the memory bound.
const PIECE_BYTES: usize = 1 << 20;

/// A trace being read.
pub struct Input {
    name: String,
    from: Box<dyn Read>,
    live: bool,
    piece: Vec<u8>,
    bytes_read: u64,
    bytes_total: Option<u64>,
}

impl Input {
    /// Opens the file; `-` is standard input.
    pub fn open(path: &Path) -> Result<Input, Failure> {
        let mut name = String::new();
        let mut bytes_total = None;
        let (from, live): (Box<dyn Read>, bool) = if path.as_os_str() == "-" {
            name.push_str("standard input");
            (Box::new(io::stdin()), true)
        } else {
            text::escape(path.as_os_str().as_bytes(), &mut name);
            let refused = |e| Failure::Refused(format!("{name}: cannot open it: {e}"));
            let file = File::open(path).map_err(refused)?;
            let meta = file.metadata().map_err(refused)?;
            if meta.is_dir() {
                return Err(Failure::Refused(format!("{name}: is a directory, expected a trace")));
            }
            bytes_total = meta.is_file().then_some(meta.len());
            (Box::new(file), !meta.is_file())
        };
        let piece = vec![0; PIECE_BYTES];
        Ok(Input { name, from, live, piece, bytes_read: 0, bytes_total })
    }

    /// Its name, escaped.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may still be written, so that output should not wait for more of it.
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// How many bytes were read so far.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    /// How many bytes there are, where that is known.
    pub fn bytes_total(&self) -> Option<u64> {
        self.bytes_total
    }

    /// The next piece; empty at the end.
    pub fn next_piece(&mut self) -> Result<&[u8], Failure> {
        loop {
            match self.from.read(&mut self.piece) {
                Ok(n) => {
                    self.bytes_read += n as u64;
                    return Ok(&self.piece[..n]);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => {
                    return Err(Failure::Refused(format!("{}: cannot read it: {e}", self.name)));
                }
            }
        }
    }
}
