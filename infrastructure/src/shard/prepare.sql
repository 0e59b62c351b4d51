-- Makes a tenant's role and a schema that belongs to it, as far as they are not there.
do $$
declare
    login   pg_roles := (select role from pg_roles role where rolname = current_user);
    -- From 16 on it is the membership that inherits or not, before it is the member.
    by_role boolean := current_setting('server_version_num')::integer < 160000;
begin
    if by_role and login.rolinherit and not login.rolsuper then
        raise exception 'the role % inherits, so it could read every tenant''s schema: '
            'alter role % noinherit', login.rolname, quote_ident(login.rolname)
            using errcode = 'insufficient_privilege';
    end if;
    if to_regrole('{role}') is null then
        begin
            create role {role} nologin noinherit;
        exception
            -- In another database of the cluster at the same time.
            when duplicate_object or unique_violation then null;
            when insufficient_privilege then
                raise exception 'the role % may not make a role for a tenant: alter role % createrole',
                    login.rolname, quote_ident(login.rolname)
                    using errcode = 'insufficient_privilege';
        end;
    end if;
    if by_role then
        if not pg_has_role('{role}', 'member') then
            grant {role} to current_user;
        end if;
    elsif not pg_has_role('{role}', 'set') then
        execute 'grant {role} to current_user with inherit false, set true';
    end if;
    if to_regnamespace('{schema}') is null then
        create schema {schema} authorization {role};
    end if;
end
$$;
