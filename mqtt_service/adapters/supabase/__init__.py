"""The Supabase project: database functions, Realtime, Storage and edge functions."""
