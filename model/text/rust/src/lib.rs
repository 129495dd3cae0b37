//! Hugging Face tokenizers and chat templates behind the C ABI of lorad_text.h, which is the contract of every function here.

mod chat;

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::slice;

use tokenizers::{AddedToken, DecoderWrapper, PostProcessorWrapper, Tokenizer};

pub struct LoradTextTokenizer {
    tokenizer: Tokenizer,
    vocab_size: u32,
    byte_fallback: bool,
}

#[repr(C)]
pub struct LoradTextBytes {
    data: *mut u8,
    size_bytes: usize,
}

#[repr(C)]
pub struct LoradTextIds {
    data: *mut u32,
    count: usize,
}

const OK: i32 = 0;
const ERROR: i32 = 1;

fn leak<T>(values: Vec<T>) -> (*mut T, usize) {
    let boxed = values.into_boxed_slice();
    let count = boxed.len();
    (Box::into_raw(boxed) as *mut T, count)
}

unsafe fn unleak<T>(data: *mut T, count: usize) {
    if !data.is_null() {
        drop(Box::from_raw(std::ptr::slice_from_raw_parts_mut(data, count)));
    }
}

unsafe fn put_text(out: *mut LoradTextBytes, text: String) {
    let (data, size_bytes) = leak(text.into_bytes());
    *out = LoradTextBytes { data, size_bytes };
}

// An empty C span may have a null pointer, which from_raw_parts does not allow.
unsafe fn span<'a, T>(data: *const T, count: usize) -> &'a [T] {
    if count == 0 {
        &[]
    } else {
        slice::from_raw_parts(data, count)
    }
}

/// Runs `body`; an error or a panic becomes one line in `error`.
fn guarded(error: *mut LoradTextBytes, body: impl FnOnce() -> Result<(), String>) -> i32 {
    let message = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return OK,
        Ok(Err(message)) => message,
        Err(panic) => panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string()))
            .unwrap_or_else(|| "the tokenizer library panicked".to_string()),
    };
    unsafe { put_text(error, message.replace('\n', " ")) };
    ERROR
}

fn decoder_has_byte_fallback(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(sequence) => {
            sequence.get_decoders().iter().any(decoder_has_byte_fallback)
        }
        _ => false,
    }
}

impl LoradTextTokenizer {
    fn count_ids(&mut self) {
        let last = self.tokenizer.get_vocab(true).into_values().max();
        self.vocab_size = last.map_or(0, |id| id.saturating_add(1));
    }

    fn open(json: &[u8]) -> Result<Self, String> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(|e| e.to_string())?;
        tokenizer.with_truncation(None).map_err(|e| e.to_string())?;
        tokenizer.with_padding(None);
        let byte_fallback = tokenizer.get_decoder().is_some_and(decoder_has_byte_fallback);
        let mut result = Self { tokenizer, vocab_size: 0, byte_fallback };
        result.count_ids();
        Ok(result)
    }
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_bytes_free(bytes: LoradTextBytes) {
    unleak(bytes.data, bytes.size_bytes);
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_ids_free(ids: LoradTextIds) {
    unleak(ids.data, ids.count);
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_open(
    json: *const u8,
    size_bytes: usize,
    out: *mut *mut LoradTextTokenizer,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let opened = LoradTextTokenizer::open(span(json, size_bytes))?;
        *out = Box::into_raw(Box::new(opened));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_close(tokenizer: *mut LoradTextTokenizer) {
    if !tokenizer.is_null() {
        drop(Box::from_raw(tokenizer));
    }
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_add_tokens(
    tokenizer: *mut LoradTextTokenizer,
    json: *const u8,
    size_bytes: usize,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let tokens: Vec<AddedToken> =
            serde_json::from_slice(span(json, size_bytes)).map_err(|e| e.to_string())?;
        let target = &mut *tokenizer;
        target.tokenizer.add_tokens(tokens).map_err(|e| e.to_string())?;
        target.count_ids();
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_set_post_processor(
    tokenizer: *mut LoradTextTokenizer,
    json: *const u8,
    size_bytes: usize,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let processor: PostProcessorWrapper =
            serde_json::from_slice(span(json, size_bytes)).map_err(|e| e.to_string())?;
        (*tokenizer).tokenizer.with_post_processor(Some(processor));
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_encode(
    tokenizer: *const LoradTextTokenizer,
    text: *const u8,
    size_bytes: usize,
    add_special_tokens: bool,
    out: *mut LoradTextIds,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let text = std::str::from_utf8(span(text, size_bytes)).map_err(|e| e.to_string())?;
        let encoding =
            (*tokenizer).tokenizer.encode_fast(text, add_special_tokens).map_err(|e| e.to_string())?;
        let (data, count) = leak(encoding.get_ids().to_vec());
        *out = LoradTextIds { data, count };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_decode(
    tokenizer: *const LoradTextTokenizer,
    ids: *const u32,
    count: usize,
    skip_special_tokens: bool,
    out: *mut LoradTextBytes,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let text = (*tokenizer)
            .tokenizer
            .decode(span(ids, count), skip_special_tokens)
            .map_err(|e| e.to_string())?;
        put_text(out, text);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_vocab_size(tokenizer: *const LoradTextTokenizer) -> u32 {
    (*tokenizer).vocab_size
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_id_to_piece(
    tokenizer: *const LoradTextTokenizer,
    id: u32,
    out: *mut LoradTextBytes,
) -> bool {
    match (*tokenizer).tokenizer.id_to_token(id) {
        Some(piece) => {
            put_text(out, piece);
            true
        }
        None => false,
    }
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_piece_to_id(
    tokenizer: *const LoradTextTokenizer,
    piece: *const u8,
    size_bytes: usize,
    out: *mut u32,
) -> bool {
    let found = std::str::from_utf8(span(piece, size_bytes))
        .ok()
        .and_then(|piece| (*tokenizer).tokenizer.token_to_id(piece));
    match found {
        Some(id) => {
            *out = id;
            true
        }
        None => false,
    }
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_is_added(tokenizer: *const LoradTextTokenizer, id: u32) -> bool {
    let added = (*tokenizer).tokenizer.get_added_vocabulary();
    added.get_added_tokens_decoder().contains_key(&id)
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_is_special(tokenizer: *const LoradTextTokenizer, id: u32) -> bool {
    let tokenizer = &(*tokenizer).tokenizer;
    tokenizer
        .id_to_token(id)
        .is_some_and(|piece| tokenizer.get_added_vocabulary().is_special_token(&piece))
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_has_byte_fallback(tokenizer: *const LoradTextTokenizer) -> bool {
    (*tokenizer).byte_fallback
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_encode_with_begins(
    tokenizer: *const LoradTextTokenizer,
    text: *const u8,
    size_bytes: usize,
    out: *mut LoradTextIds,
    begins: *mut LoradTextIds,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let text = std::str::from_utf8(span(text, size_bytes)).map_err(|e| e.to_string())?;
        let encoding = (*tokenizer).tokenizer.encode(text, false).map_err(|e| e.to_string())?;
        let (data, count) = leak(encoding.get_ids().to_vec());
        *out = LoradTextIds { data, count };
        let (data, count) = leak(encoding.get_offsets().iter().map(|(begin, _)| *begin as u32).collect());
        *begins = LoradTextIds { data, count };
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_render_chat(
    template: *const u8,
    template_bytes: usize,
    context: *const u8,
    context_bytes: usize,
    out: *mut LoradTextBytes,
    error: *mut LoradTextBytes,
) -> i32 {
    guarded(error, || {
        let template = std::str::from_utf8(span(template, template_bytes)).map_err(|e| e.to_string())?;
        put_text(out, chat::render(template, span(context, context_bytes))?);
        Ok(())
    })
}

#[no_mangle]
pub unsafe extern "C" fn lorad_text_has_generation(template: *const u8, size_bytes: usize) -> bool {
    std::str::from_utf8(span(template, size_bytes)).is_ok_and(chat::has_generation)
}
