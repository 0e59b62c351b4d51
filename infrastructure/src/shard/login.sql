-- Refuses a login that could not keep tenants apart.
do $$
declare
    login pg_roles := (select role from pg_roles role where rolname = current_user);
begin
    if login.rolsuper then
        return;
    end if;
    if not login.rolcreaterole then
        raise exception 'the role % may not make a role for a tenant: alter role % createrole',
            login.rolname, quote_ident(login.rolname)
            using errcode = 'insufficient_privilege';
    end if;
    -- From 16 on it is the membership that inherits or not, before it is the member.
    if login.rolinherit and current_setting('server_version_num')::integer < 160000 then
        raise exception 'the role % inherits, so it could read every tenant''s schema: '
            'alter role % noinherit', login.rolname, quote_ident(login.rolname)
            using errcode = 'insufficient_privilege';
    end if;
end
$$;
