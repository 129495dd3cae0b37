// C ABI of the crate in this folder: Hugging Face tokenizers for tokenizer.json, and chat templates.
//
// Threads  a tokenizer is immutable once the lorad_text_add_tokens and lorad_text_set_post_processor calls are over;
//          after that every function may be called from several threads at once.
// Errors   kLoradTextError fills `error` with one line; it never unwinds into the caller.
// Memory   what a LoradTextBytes or LoradTextIds holds is given back by its free function; both accept empty ones.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LoradTextTokenizer LoradTextTokenizer;

typedef enum { kLoradTextOk = 0, kLoradTextError = 1 } LoradTextResult;

// UTF-8, not zero-terminated.
typedef struct {
  char* data;
  size_t size_bytes;
} LoradTextBytes;

typedef struct {
  uint32_t* data;
  size_t count;
} LoradTextIds;

void lorad_text_bytes_free(LoradTextBytes bytes);
void lorad_text_ids_free(LoradTextIds ids);

// `json` is the content of a tokenizer.json; truncation and padding that it asks for are dropped.
LoradTextResult lorad_text_open(const char* json, size_t size_bytes, LoradTextTokenizer** out, LoradTextBytes* error);
void lorad_text_close(LoradTextTokenizer* tokenizer);

// `json` is a list of {content, single_word, lstrip, rstrip, normalized, special}. A token that is known keeps its id.
LoradTextResult lorad_text_add_tokens(LoradTextTokenizer* tokenizer, const char* json, size_t size_bytes,
                                      LoradTextBytes* error);
// `json` is the "post_processor" section of a tokenizer.json.
LoradTextResult lorad_text_set_post_processor(LoradTextTokenizer* tokenizer, const char* json, size_t size_bytes,
                                              LoradTextBytes* error);

// `text` must be UTF-8.
LoradTextResult lorad_text_encode(const LoradTextTokenizer* tokenizer, const char* text, size_t size_bytes,
                                  bool add_special_tokens, LoradTextIds* out, LoradTextBytes* error);
// Without special tokens around the text; begins[i] is the byte of `text` where token i begins.
LoradTextResult lorad_text_encode_with_begins(const LoradTextTokenizer* tokenizer, const char* text, size_t size_bytes,
                                              LoradTextIds* out, LoradTextIds* begins, LoradTextBytes* error);
// An id without a piece decodes to nothing.
LoradTextResult lorad_text_decode(const LoradTextTokenizer* tokenizer, const uint32_t* ids, size_t count,
                                  bool skip_special_tokens, LoradTextBytes* out, LoradTextBytes* error);

// One past the largest id, added tokens included.
uint32_t lorad_text_vocab_size(const LoradTextTokenizer* tokenizer);
// False if the id has no piece.
bool lorad_text_id_to_piece(const LoradTextTokenizer* tokenizer, uint32_t id, LoradTextBytes* out);
// False if there is no such piece.
bool lorad_text_piece_to_id(const LoradTextTokenizer* tokenizer, const char* piece, size_t size_bytes, uint32_t* out);
// True for an entry of "added_tokens" and what lorad_text_add_tokens added, special or not.
bool lorad_text_is_added(const LoradTextTokenizer* tokenizer, uint32_t id);
// What decoding drops when special tokens are skipped.
bool lorad_text_is_special(const LoradTextTokenizer* tokenizer, uint32_t id);
// True if the decoder turns runs of pieces of the form <0xNN> into bytes.
bool lorad_text_has_byte_fallback(const LoradTextTokenizer* tokenizer);

// Renders a chat template as transformers does. `context` is a JSON object: messages, tools, add_generation_prompt,
// bos_token, eos_token. What the template's {% generation %} tags enclose stands between U+FDD0 and U+FDD1.
LoradTextResult lorad_text_render_chat(const char* chat_template, size_t template_bytes, const char* context,
                                       size_t context_bytes, LoradTextBytes* out, LoradTextBytes* error);
// True if the template has such tags.
bool lorad_text_has_generation(const char* chat_template, size_t size_bytes);

#ifdef __cplusplus
}
#endif
