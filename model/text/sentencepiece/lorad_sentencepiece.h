// C ABI of liblorad_sentencepiece.so: a sentencepiece model (tokenizer.model), read only.
//
// Threads  a model is immutable: every function but close may be called from several threads at once.
// Errors   false, with one line in `error` that lorad_sp_free gives back.
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LORAD_SP_EXPORT __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef struct LoradSpModel LoradSpModel;

typedef enum { kLoradSpNormal, kLoradSpUnknown, kLoradSpControl, kLoradSpUnused, kLoradSpByte } LoradSpKind;

// A piece's id and the byte of the text where it begins.
typedef struct {
  int32_t id;
  uint32_t begin;
} LoradSpToken;

// Gives back a text or ids that a function below made; accepts null.
LORAD_SP_EXPORT void lorad_sp_free(void* memory);

// `bytes` is the content of a tokenizer.model.
LORAD_SP_EXPORT bool lorad_sp_open(const char* bytes, size_t size_bytes, LoradSpModel** out, char** error);
LORAD_SP_EXPORT void lorad_sp_close(LoradSpModel* model);

// Without beginning and end of sentence. `text` must be UTF-8.
LORAD_SP_EXPORT bool lorad_sp_encode(const LoradSpModel* model, const char* text, size_t size_bytes,
                                     LoradSpToken** tokens, size_t* count, char** error);
// Every id must be in [0, lorad_sp_vocab_size).
LORAD_SP_EXPORT bool lorad_sp_decode(const LoradSpModel* model, const int32_t* ids, size_t count, char** text,
                                     size_t* size_bytes, char** error);

LORAD_SP_EXPORT int32_t lorad_sp_vocab_size(const LoradSpModel* model);
// -1 if the model has none.
LORAD_SP_EXPORT int32_t lorad_sp_bos_id(const LoradSpModel* model);
LORAD_SP_EXPORT int32_t lorad_sp_eos_id(const LoradSpModel* model);
LORAD_SP_EXPORT LoradSpKind lorad_sp_kind(const LoradSpModel* model, int32_t id);
// The piece belongs to the model and lives as long.
LORAD_SP_EXPORT const char* lorad_sp_id_to_piece(const LoradSpModel* model, int32_t id, size_t* size_bytes);
// -1 if there is no such piece.
LORAD_SP_EXPORT int32_t lorad_sp_piece_to_id(const LoradSpModel* model, const char* piece, size_t size_bytes);

#ifdef __cplusplus
}
#endif
